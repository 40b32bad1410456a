package gateway

import (
	"testing"
	"time"

	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

func TestWhatWasWaitedIsNotWaitedAgain(t *testing.T) {
	request := &pb.AcquireRequest{Name: "nightly", WaitMs: 5000}
	for waited, left := range map[time.Duration]int64{0: 5000, 4500 * time.Millisecond: 500, time.Minute: 0} {
		got, ok := rest(request, waited).(*pb.AcquireRequest)
		if !ok || got.GetWaitMs() != left || got.GetName() != "nightly" {
			t.Errorf("after %v: %v", waited, got)
		}
	}
	if request.GetWaitMs() != 5000 {
		t.Errorf("the caller's own request is %v", request)
	}
	for _, whole := range []any{&pb.AcquireRequest{}, &pb.CacheGetRequest{Key: "k"}} {
		if rest(whole, time.Second) != whole {
			t.Errorf("%v was copied", whole)
		}
	}
}
