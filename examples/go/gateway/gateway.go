// Package gateway is what the examples share: a connection, and retries as the proto allows them.
package gateway

import (
	"context"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// attempt is the time for one attempt; the context of a call is for all of them.
const attempt = 5 * time.Second

// Connect makes a connection to the gateway that the environment variable GATEWAY names, or to its default place.
func Connect() (*grpc.ClientConn, error) {
	target := os.Getenv("GATEWAY")
	if target == "" {
		target = "127.0.0.1:50051"
	}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(repeat))
}

// repeat repeats a call where the method's idempotency_level says that this is safe, until its context ends.
func repeat(
	ctx context.Context, method string, req, reply any,
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		one, cancel := context.WithTimeout(ctx, attempt)
		err := invoke(one, method, req, reply, conn, opts...)
		cancel()
		if err == nil || !transient(err) || !safe(method) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// transient says whether the next attempt may fare better.
func transient(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Unknown, codes.Canceled:
		return true
	}
	return false
}

// safe says whether a method, such as /redisgateway.v1.Cache/Get, may be called again after a failure.
func safe(method string) bool {
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	options, _ := found.Options().(*descriptorpb.MethodOptions)
	return options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}
