// Package pulls counts pulls of tags and manifests, in the background, and flushes the counts to a database.
package pulls

import (
	"context"
	"strconv"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// Pull is a pull of a tag, or, without one, of a manifest by its digest.
type Pull struct {
	Repository  int64
	Tag, Digest string
	// At is when. By default now, by the gateway's clock.
	At time.Time
}

func (p Pull) message() *pb.Pull {
	message := &pb.Pull{RepositoryId: p.Repository, Tag: p.Tag, Digest: p.Digest}
	if !p.At.IsZero() {
		at := strconv.FormatInt(p.At.Unix(), 10)
		message.Timestamp = &at
	}
	return message
}

// Statistics is what is counted and not flushed yet.
type Statistics = pb.PullStatistics

// Client counts pulls one by one, each answered when it stands, by a connection.
type Client struct{ pulls pb.PullMetricsClient }

// NewClient makes a client.
func NewClient(conn *gateway.Conn) *Client { return &Client{pb.NewPullMetricsClient(conn)} }

// Track counts a pull and answers the count with it. gateway.ErrOutcomeUnknown: it may be counted or not; any other error: it is
// not.
func (c *Client) Track(ctx context.Context, pull Pull) (count int64, err error) {
	message := pull.message()
	if pull.Tag == "" {
		answer, err := c.pulls.TrackManifestPull(ctx, &pb.TrackManifestPullRequest{
			RepositoryId: message.RepositoryId, Digest: message.Digest, Timestamp: message.Timestamp,
		})
		return answer.GetPullCount(), err
	}
	answer, err := c.pulls.TrackTagPull(ctx, &pb.TrackTagPullRequest{
		RepositoryId: message.RepositoryId, Tag: message.Tag, Digest: message.Digest, Timestamp: message.Timestamp,
	})
	return answer.GetPullCount(), err
}

// Statistics tells what is counted for a tag at a digest, or, without a tag, for a manifest; nil if there is nothing.
func (c *Client) Statistics(ctx context.Context, repository int64, tag, digest string) (*Statistics, error) {
	if tag == "" {
		answer, err := c.pulls.GetManifestPullStatistics(ctx, &pb.GetManifestPullStatisticsRequest{
			RepositoryId: repository, Digest: digest,
		})
		return answer.GetStatistics(), err
	}
	answer, err := c.pulls.GetTagPullStatistics(ctx, &pb.GetTagPullStatisticsRequest{
		RepositoryId: repository, Tag: tag, Digest: digest,
	})
	return answer.GetStatistics(), err
}
