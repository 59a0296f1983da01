package endpoint

import (
	"fmt"
	"os"
	"path/filepath"
)

// writeConf6 sets net.ipv6.conf.<ifName>.<key> in the namespace of the calling thread, and never "all" or "default".
func writeConf6(ifName, key, value string) error {
	if !plainIfName(ifName) {
		return fmt.Errorf("set %s of interface %q: not a name of ours", key, ifName)
	}
	path := filepath.Join("/proc/sys/net/ipv6/conf", ifName, key)
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set net.ipv6.conf.%s.%s=%s: %w", ifName, key, value, err)
	}
	return nil
}
