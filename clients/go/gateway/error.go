package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	pb "github.com/redis-gateway/redis-gateway/clients/go/redisgateway/v1"
)

// domain tells the gateway's own statuses from those of a proxy or of the gRPC library.
const domain = "redisgateway"

// Reason is why a call failed, or why its answer is degraded. It is an error by itself: errors.Is(err, ErrKeyNotFound).
type Reason string

// Error is the reason's name in the API.
func (r Reason) Error() string { return string(r) }

// The gateway's reasons; the proto files say which call fails with which.
const (
	// ErrOutcomeUnknown: the change may or may not stand. Also where something other than the gateway says that a call failed
	// that is not safe to repeat, and that may have reached the gateway.
	ErrOutcomeUnknown   Reason = "OUTCOME_UNKNOWN"
	ErrClaimNotFound    Reason = "CLAIM_NOT_FOUND"
	ErrDraining         Reason = "DRAINING"
	ErrInvalidArgument  Reason = "INVALID_ARGUMENT"
	ErrKeyExists        Reason = "KEY_EXISTS"
	ErrKeyNotFound      Reason = "KEY_NOT_FOUND"
	ErrLockLost         Reason = "LOCK_LOST"
	ErrNotConfigured    Reason = "NOT_CONFIGURED"
	ErrNoTTL            Reason = "NO_TTL"
	ErrOverloaded       Reason = "OVERLOADED"
	ErrRedis            Reason = "REDIS_ERROR"
	ErrRedisDenied      Reason = "REDIS_DENIED"
	ErrRedisOutOfMemory Reason = "REDIS_OUT_OF_MEMORY"
	ErrRedisTimeout     Reason = "REDIS_TIMEOUT"
	ErrRedisUnavailable Reason = "REDIS_UNAVAILABLE"
	ErrRequestTooLarge  Reason = "REQUEST_TOO_LARGE"
	ErrTooManyKeys      Reason = "TOO_MANY_KEYS"
	ErrValueTooLarge    Reason = "VALUE_TOO_LARGE"
	ErrWrongType        Reason = "WRONG_TYPE"
)

// Degraded makes an error of the reason that an answer is degraded by; nil if it is not, UNKNOWN_n if only a newer gateway knows it.
func Degraded(reason pb.DegradedReason) error {
	if reason == pb.DegradedReason_DEGRADED_REASON_UNSPECIFIED {
		return nil
	}
	if _, known := pb.DegradedReason_name[int32(reason)]; !known {
		return Reason(fmt.Sprint("UNKNOWN_", int32(reason)))
	}
	return Reason(strings.TrimPrefix(reason.String(), "DEGRADED_REASON_"))
}

// Error is a call that failed. errors.Is finds its Reason in it, and context.DeadlineExceeded or context.Canceled by its code;
// status.Code and status.Convert find its status.
type Error struct {
	// Method is such as /redisgateway.v1.Cache/Get.
	Method string
	// Reason is the gateway's own, or ErrOutcomeUnknown; empty if nothing of what was asked can have reached the gateway, or
	// asking again is safe.
	Reason Reason
	// Metadata is what the gateway says about the reason: pattern, endpoint, field, command, error.
	Metadata map[string]string
	// RetryAfter is how long the gateway would have the caller wait; 0 if it does not say.
	RetryAfter time.Duration
	// FromGateway tells that the gateway itself said so, and not the gRPC library or something in between.
	FromGateway bool

	retry  bool
	status *status.Status
}

// Error names the method, the reason, the code and what the gateway says of them.
func (e *Error) Error() string {
	name := strings.TrimPrefix(e.Method, "/redisgateway.v1.")
	if e.Reason == "" {
		return fmt.Sprintf("%s: %v: %s", name, e.status.Code(), e.status.Message())
	}
	return fmt.Sprintf("%s: %s (%v): %s", name, string(e.Reason), e.status.Code(), e.status.Message())
}

// GRPCStatus is the status as it came.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is finds reasons, and the errors of contexts.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.status.Code() == codes.DeadlineExceeded
	case context.Canceled:
		return e.status.Code() == codes.Canceled
	}
	reason, ok := target.(Reason)
	return ok && e.Reason == reason
}

// Transient tells that the same call may fare better later. Whether it may be made again is another question: see the proto.
func (e *Error) Transient() bool {
	switch code := e.status.Code(); {
	case e.FromGateway:
		return e.retry || code == codes.DeadlineExceeded
	default:
		return code == codes.Unavailable || code == codes.Unknown || code == codes.Canceled || code == codes.DeadlineExceeded
	}
}

// failure makes an error of what an RPC failed with; sent tells whether anything of it left this process.
func failure(method string, err error, sent bool) *Error {
	failed := &Error{Method: method, status: status.Convert(err)}
	for _, detail := range failed.status.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == domain {
				failed.FromGateway = true
				failed.Reason, failed.Metadata = Reason(detail.Reason), detail.Metadata
			}
		case *errdetails.RetryInfo:
			failed.retry = true
			failed.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	if !failed.FromGateway && sent && !safe(method) {
		failed.Reason = ErrOutcomeUnknown
	}
	return failed
}

// safe tells whether a method may be called again after a failure, by its idempotency_level.
func safe(method string) bool {
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	options, _ := found.Options().(*descriptorpb.MethodOptions)
	return options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}

// stream is a stream whose errors are ours.
type stream struct {
	grpc.ClientStream
	method string
}

func (s stream) RecvMsg(message any) error { return s.failed(s.ClientStream.RecvMsg(message)) }

func (s stream) SendMsg(message any) error { return s.failed(s.ClientStream.SendMsg(message)) }

func (s stream) failed(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return failure(s.method, err, true)
}
