package main

import (
	"context"
	"database/sql"
	"net/url"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite"

	"github.com/redis-gateway/redis-gateway/clients/go/pulls"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

const day = 24 * time.Hour

// A name must be known for as long as its key may come up again, and while the key stands in Redis that has no end: flushing
// may be off for weeks after a consumer died between its database and CommitClaim. So a name ages once its key is deleted.
const (
	// From then on it is there for those who had the key in hand and have not written yet (a consumer that was stopped in
	// between, a flush worker without the gateway), and for a Redis that is restored from a backup: longer than each of them.
	keepDeleted = 7 * day
	// Nobody here saw some keys deleted: a flush worker without the gateway took them, or a consumer died after CommitClaim.
	// Longer than flushing is ever off.
	keep = 365 * day
)

const schema = `
CREATE TABLE IF NOT EXISTS manifest_pulls (
  repository_id INTEGER, digest TEXT, pull_count INTEGER NOT NULL, last_pull INTEGER,
  PRIMARY KEY (repository_id, digest)
);
CREATE TABLE IF NOT EXISTS tag_pulls (
  repository_id INTEGER, tag TEXT, digest TEXT NOT NULL, pull_count INTEGER NOT NULL, last_pull INTEGER,
  PRIMARY KEY (repository_id, tag)
);
CREATE TABLE IF NOT EXISTS flushed_keys (name TEXT PRIMARY KEY, flushed_at INTEGER NOT NULL, deleted_at INTEGER);
CREATE INDEX IF NOT EXISTS flushed_keys_by_age ON flushed_keys (deleted_at, flushed_at);
`

// Counts are added, and the latest pull stays; one without a time is never the latest.
const (
	addManifest = `
INSERT INTO manifest_pulls (repository_id, digest, pull_count, last_pull) VALUES (?, ?, ?, ?)
ON CONFLICT (repository_id, digest) DO UPDATE SET
  pull_count = pull_count + excluded.pull_count,
  last_pull = nullif(max(ifnull(last_pull, 0), ifnull(excluded.last_pull, 0)), 0)`
	addTag = `
INSERT INTO tag_pulls (repository_id, tag, digest, pull_count, last_pull) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (repository_id, tag) DO UPDATE SET
  pull_count = pull_count + excluded.pull_count,
  digest = iif(ifnull(excluded.last_pull, 0) > ifnull(last_pull, 0), excluded.digest, digest),
  last_pull = nullif(max(ifnull(last_pull, 0), ifnull(excluded.last_pull, 0)), 0)`
)

// database holds pulls by manifest and by tag, and the names of the keys that they came from.
type database struct{ *sql.DB }

func open(path string) (database, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return database{}, err
	}
	options := url.Values{
		// Takes its place as the writer before it reads: two that know no name yet would both add what the key counts.
		"_txlock": {"immediate"},
		// Once a key is deleted, a loss of power must not take back what it added.
		"_pragma": {"busy_timeout(30000)", "journal_mode(WAL)", "synchronous(FULL)"},
	}
	file := url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", file.String())
	if err != nil {
		return database{}, err
	}
	_, err = db.Exec(schema)
	return database{db}, err
}

// Write adds what a claim's keys add, but for those whose names are known.
func (db database) Write(ctx context.Context, claim *pulls.Claim) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	now := time.Now()
	for _, key := range claim.Keys {
		isNew, err := remember(tx, key.Name, now)
		// A bulk write would take claim.Manifests and claim.Tags, which are summed up, unless a key is left out.
		if err == nil && isNew {
			err = add(tx, key)
		}
		if err != nil {
			return err
		}
	}
	_, err = tx.Exec("DELETE FROM flushed_keys WHERE deleted_at < ? OR deleted_at IS NULL AND flushed_at < ?",
		now.Add(-keepDeleted).Unix(), now.Add(-keep).Unix())
	if err != nil {
		return err
	}
	return tx.Commit()
}

// remember stores a key's name, and says whether it is new.
func remember(tx *sql.Tx, name string, now time.Time) (bool, error) {
	known, err := tx.Exec("UPDATE flushed_keys SET flushed_at = ?, deleted_at = NULL WHERE name = ?", now.Unix(), name)
	if err != nil {
		return false, err
	}
	if n, err := known.RowsAffected(); n > 0 || err != nil {
		return false, err
	}
	_, err = tx.Exec("INSERT INTO flushed_keys (name, flushed_at) VALUES (?, ?)", name, now.Unix())
	return true, err
}

func add(tx *sql.Tx, key *pb.ClaimedKey) error {
	_, err := tx.Exec(addManifest, key.RepositoryId, key.Digest, key.PullCount, key.LastPullTimestamp)
	if err == nil && key.Tag != "" {
		_, err = tx.Exec(addTag, key.RepositoryId, key.Tag, key.Digest, key.PullCount, key.LastPullTimestamp)
	}
	return err
}

// Deleted takes note that these keys are gone from Redis.
func (db database) Deleted(ctx context.Context, names []string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	now := time.Now().Unix()
	for _, name := range names {
		if _, err := tx.Exec("UPDATE flushed_keys SET deleted_at = ? WHERE name = ?", now, name); err != nil {
			return err
		}
	}
	return tx.Commit()
}
