// Services in Go for tests/mixed: `mixed client TARGET` has moved to the gateway, on clients/go; `mixed redis SOCKET LUA` has not, on
// go-redis. They do what they are told as those in Python do; LUA is the folder of the scripts that count pulls.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// arguments of all operations; each takes its own.
type arguments struct {
	Build, Entry, Message, Kind, Data, Status string
	User, Event, Payload                      string
	Events                                    []string
	Repository                                int64
	Tag, Digest                               string
	Key, Name, Prefix                         string
	Keys                                      []string
	Value                                     string
	Loaded                                    string
	Namespace, Repo                           string
	Users                                     []int64
	Start, Seconds, Wait                      int64
	Count                                     int
	Overwrite                                 bool
	UserID                                    int64 `json:"user_id"`
}

type operations map[string]func(context.Context, arguments) (any, error)

func main() {
	var party operations
	var err error
	switch os.Args[1] {
	case "client":
		party, err = newMoved(os.Args[2])
	case "redis":
		party, err = newDirect(os.Args[2], os.Args[3])
	}
	if err == nil {
		err = serve(party)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve does what it is told, line by line, until its input ends.
func serve(party operations) error {
	told := json.NewEncoder(os.Stdout)
	if err := told.Encode(answer{Answer: "ready"}); err != nil {
		return err
	}
	asked := json.NewDecoder(bufio.NewReader(os.Stdin))
	for asked.More() {
		var request struct {
			Do   string
			With arguments
		}
		if err := asked.Decode(&request); err != nil {
			return err
		}
		do, known := party[request.Do]
		if !known {
			return fmt.Errorf("no operation: %s", request.Do)
		}
		result, err := do(context.Background(), request.With)
		said := answer{Answer: result}
		if err != nil {
			said = answer{Error: err.Error()}
		}
		if err := told.Encode(said); err != nil {
			return err
		}
	}
	return nil
}

type answer struct {
	Answer any    `json:"answer"`
	Error  string `json:"error,omitempty"`
}

// row of a table of pulls; without a tag, of manifests.
type row struct {
	repository        int64
	tag, digest       string
	pullCount, lastAt int64
}

// list is what of a row is told.
func (r row) list() []any {
	told := []any{r.repository, r.digest, r.pullCount, r.lastAt}
	if r.tag != "" {
		told = slices.Insert(told, 1, any(r.tag))
	}
	return told
}

// flushed are the rows of both tables, in their order.
func flushed(manifests, tags []row) any {
	told := map[string][][]any{"manifests": {}, "tags": {}}
	for table, rows := range map[string][]row{"manifests": manifests, "tags": tags} {
		slices.SortFunc(rows, func(a, b row) int {
			return cmp.Or(cmp.Compare(a.repository, b.repository), strings.Compare(a.tag, b.tag), strings.Compare(a.digest, b.digest))
		})
		for _, row := range rows {
			told[table] = append(told[table], row.list())
		}
	}
	return told
}
