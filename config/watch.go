package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// calm is how long a file must have been left alone before it counts as written: editors write in several steps.
const calm = 200 * time.Millisecond

// Watch pokes when the file at path, the default file when path is empty, or a drop-in beside it was written.
//
// It watches directories, since editors and configuration managers replace files rather than write into them. A missing
// directory is no error: there is then nothing to watch there. The channel stays silent when ctx has ended.
func Watch(ctx context.Context, path string) (<-chan struct{}, error) {
	if path == "" {
		path = DefaultPath
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	dir := filepath.Dir(path)
	for _, d := range []string{dir, filepath.Join(dir, dropInDir)} {
		if err := w.Add(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("watch %s: %w", d, err), w.Close())
		}
	}
	poke := make(chan struct{}, 1)
	go relay(ctx, w, path, poke)
	return poke, nil
}

// relay turns bursts of file events into single pokes.
func relay(ctx context.Context, w *fsnotify.Watcher, path string, poke chan<- struct{}) {
	defer w.Close()
	quiet := time.NewTimer(calm)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.Events:
			dropIn := filepath.Base(filepath.Dir(e.Name)) == dropInDir && strings.HasSuffix(e.Name, ".toml")
			if e.Name == path || dropIn {
				quiet.Reset(calm)
			}
			if e.Op.Has(fsnotify.Create) && e.Name == filepath.Join(filepath.Dir(path), dropInDir) {
				_ = w.Add(e.Name) // a directory that came later; without it only SIGHUP applies its files
				quiet.Reset(calm)
			}
		case <-w.Errors:
			quiet.Reset(calm) // events were lost: look
		case <-quiet.C:
			select {
			case poke <- struct{}{}:
			default:
			}
		}
	}
}
