// Package tracker tells whether a user whose permission was revoked may still read a repository's content from a database that
// lags. A call that cannot tell fails: its caller asks the primary database.
package tracker

import (
	"context"
	"math"
	"time"

	"github.com/redis-gateway/redis-gateway/clients/go/gateway"
	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// Client marks and asks by a connection.
type Client struct{ tracker pb.ContentTrackerClient }

// NewClient makes a client.
func NewClient(conn *gateway.Conn) *Client { return &Client{pb.NewContentTrackerClient(conn)} }

// MarkModified marks a repository as modified now, and answers the time by Redis' clock.
func (c *Client) MarkModified(ctx context.Context, namespace, repository string) (time.Time, error) {
	answer, err := c.tracker.MarkModified(ctx, &pb.MarkModifiedRequest{Namespace: namespace, Repository: repository})
	return at(answer.GetTime()), err
}

// MarkRevoked marks users' permissions for a repository as revoked now, all or none. gateway.ErrOutcomeUnknown: the marks may
// stand or not.
func (c *Client) MarkRevoked(ctx context.Context, namespace, repository string, users ...int64) (time.Time, error) {
	answer, err := c.tracker.MarkRevoked(ctx, &pb.MarkRevokedRequest{
		UserIds: users, Namespace: namespace, Repository: repository,
	})
	return at(answer.GetTime()), err
}

// IsBlocked tells whether a user's reads of a repository are blocked: it was modified after the user's permission was revoked. It
// is not repeated, since who asks can ask elsewhere.
func (c *Client) IsBlocked(ctx context.Context, user int64, namespace, repository string) (bool, error) {
	answer, err := c.tracker.IsBlocked(ctx, &pb.IsBlockedRequest{
		UserId: user, Namespace: namespace, Repository: repository,
	}, gateway.Once)
	return answer.GetBlocked(), err
}

func at(seconds float64) time.Time { return time.UnixMicro(int64(math.Round(seconds * 1e6))) }
