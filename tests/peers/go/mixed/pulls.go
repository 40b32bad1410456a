package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const mark = ":processing:"

var digestForm = regexp.MustCompile(`^[A-Za-z0-9_+.-]+:[A-Fa-f0-9]+$`)

func pullKey(a arguments) string {
	if a.Tag == "" {
		return fmt.Sprintf("pull_events:repo:%d:digest:%s", a.Repository, a.Digest)
	}
	return fmt.Sprintf("pull_events:repo:%d:tag:%s:%s", a.Repository, a.Tag, a.Digest)
}

func (d *direct) track(ctx context.Context, a arguments) (any, error) {
	script, now := d.trackManifest, time.Now().Unix()
	values := []any{a.Repository, a.Digest, now, "digest"}
	if a.Tag != "" {
		script, values = d.trackTag, []any{a.Repository, a.Tag, a.Digest, now, "tag"}
	}
	return nil, script.Run(ctx, d.pulls, []string{pullKey(a)}, values...).Err()
}

func (d *direct) statistics(ctx context.Context, a arguments) (any, error) {
	fields, err := d.pulls.HGetAll(ctx, pullKey(a)).Result()
	if len(fields) == 0 {
		return nil, err
	}
	found := map[string]any{}
	for name, value := range fields {
		found[name] = value
	}
	found["pull_count"], err = strconv.ParseInt(fields["pull_count"], 10, 64)
	return found, err
}

func (d *direct) flush(ctx context.Context, _ arguments) (any, error) {
	claimed, err := d.claim(ctx)
	if err != nil {
		return nil, err
	}
	manifests, tags := map[row]row{}, map[row]row{}
	for _, name := range claimed {
		fields, err := d.pulls.HGetAll(ctx, name).Result()
		if err != nil {
			return nil, err
		}
		pull, valid := parse(fields)
		if !valid {
			continue
		}
		if pull.tag != "" {
			add(tags, pull)
		}
		pull.tag = ""
		add(manifests, pull)
	}
	if len(claimed) > 0 {
		err = d.pulls.Del(ctx, claimed...).Err()
	}
	return flushed(slices.Collect(maps.Values(manifests)), slices.Collect(maps.Values(tags))), err
}

// claim renames what nobody has claimed, and takes what was left.
func (d *direct) claim(ctx context.Context) ([]string, error) {
	var claimed []string
	names := d.pulls.Scan(ctx, 0, "pull_events:*", 100).Iterator()
	var found []string
	for names.Next(ctx) {
		found = append(found, names.Val())
	}
	slices.Sort(found)
	for _, name := range slices.Compact(found) {
		if !strings.Contains(name, mark) {
			chance := make([]byte, 4)
			if _, err := rand.Read(chance); err != nil {
				return nil, err
			}
			fresh := name
			name = fmt.Sprintf("%s%s%d:%x", fresh, mark, time.Now().UnixMilli(), chance)
			if err := d.pulls.Rename(ctx, fresh, name).Err(); redis.HasErrorPrefix(err, "ERR no such key") {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		claimed = append(claimed, name)
	}
	return claimed, names.Err()
}

// parse is what a hash counts, unless it counts nothing or breaks a rule.
func parse(fields map[string]string) (row, bool) {
	repository, wrong := strconv.ParseInt(fields["repository_id"], 10, 64)
	count, odd := strconv.ParseInt(fields["pull_count"], 10, 64)
	at, late := strconv.ParseInt(fields["last_pull_timestamp"], 10, 64)
	digest, tag := fields["manifest_digest"], ""
	if fields["pull_method"] == "tag" {
		tag = fields["tag_name"]
	}
	valid := cmp.Or(wrong, odd, late) == nil && repository > 0 && count > 0 && at >= 0 && digestForm.MatchString(digest)
	return row{repository, tag, digest, count, at}, valid
}

// add adds a pull to its row: of a manifest by its digest, of a tag by its name, with the digest of its latest pull.
func add(rows map[row]row, pull row) {
	key := row{repository: pull.repository, tag: pull.tag}
	if pull.tag == "" {
		key.digest = pull.digest
	}
	known := rows[key]
	count := known.pullCount + pull.pullCount
	if pull.lastAt > known.lastAt || known.pullCount == 0 {
		known = pull
	}
	known.pullCount = count
	rows[key] = known
}
