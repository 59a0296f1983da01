package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

// maxEvent bounds a line of the stream, in bytes: an endpoint with every label that it may have is well below it.
const maxEvent = 4 << 20

func (a *app) events() *cobra.Command {
	var types []string
	cmd := &cobra.Command{
		Use: "events", Short: "Follow what happens on this host, as lines of JSON", GroupID: groupSee,
		Long: "Events prints a line of JSON for each thing that happens from now on, also as a table would be asked for; with\n" +
			"-o yaml, a YAML document each. It ends when it is interrupted, with 0, or when the daemon ends, with 1.\n\n" +
			"A program that does not keep up reads how many events were lost: {\"event\":\"lost\",\"count\":17}.",
		Example: "  fairlead events --types endpoint-attached,endpoint-detached",
		Args:    arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, word := range types {
				if !slices.Contains(agent.EventWords(), word) {
					return misusef("--types %q: want some of %s", word, strings.Join(agent.EventWords(), ","))
				}
			}
			c, err := a.client(readTimeout)
			if err != nil {
				return err
			}
			err = c.follow(cmd.Context(), "/v1/events", func(line []byte) error { return a.printEvent(line, types) })
			if cmd.Context().Err() != nil {
				return nil // it is how one ends this
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&types, "types", nil, "only these `WORDS`, and lost: "+strings.Join(agent.EventWords(), ","))
	_ = cmd.RegisterFlagCompletionFunc("types", completeTypes)
	return cmd
}

// completeTypes offers the words that are not in the list yet.
func completeTypes(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	done := ""
	if i := strings.LastIndexByte(typed, ','); i >= 0 {
		done = typed[:i+1]
	}
	var offers []string
	for _, word := range agent.EventWords() {
		if !slices.Contains(strings.Split(done, ","), word) {
			offers = append(offers, done+word)
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// printEvent writes an event as it came, if it is of the types that are asked for; none are all. That some were lost is
// told always, since they may have been of those.
func (a *app) printEvent(line []byte, types []string) error {
	var e agent.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("event %q is not understood by fairlead %s; is the daemon of another version? %w", line, a.Version, err)
	}
	if len(types) > 0 && e.Event != "lost" && !slices.Contains(types, e.Event) {
		return nil
	}
	if a.format == formatYAML {
		fmt.Fprintln(a.out, "---")
		return printYAML(a.out, line)
	}
	_, err := fmt.Fprintf(a.out, "%s\n", line)
	return err
}

// follow asks for path and hands over each line of an answer that goes on until ctx ends, which the caller knows of, or
// the daemon does. The client's timeout is for the beginning of the answer.
func (c client) follow(ctx context.Context, path string, line func([]byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slow := time.AfterFunc(c.timeout, func() { cancel(context.DeadlineExceeded) })
	res, err := c.send(ctx, http.MethodGet, path, nil)
	slow.Stop()
	if err != nil {
		return c.explain(ctx, err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	if res.StatusCode/100 != 2 {
		lines.Scan()
		return c.refused(res.Status, http.MethodGet, path, lines.Bytes())
	}
	for lines.Scan() {
		if err := line(lines.Bytes()); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("an event is longer than %d MiB: is %s the socket of fairlead?", maxEvent>>20, c.socket)
	}
	return fmt.Errorf("the daemon at %s has ended or hung up, and what happens now is not told: systemctl status fairlead may say why",
		c.socket)
}
