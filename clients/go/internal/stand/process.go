package stand

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// reaper runs a program, which tells its process id before it begins, and kills it when its own input ends: at the latest with the
// test, however that ends.
const reaper = `
exec 2>&1 3<&0
sh -c 'echo $$; exec "$0" "$@"' "$@" </dev/null 3<&- &
child=$!
{ cat <&3; kill -9 $child; } >/dev/null 2>&1 &
wait $child
`

// process is a program that does not outlive the test.
type process struct {
	input io.Closer
	pid   int
	done  chan struct{}
	log   *log
}

// run starts a program.
func run(t testing.TB, program string, arguments ...string) *process {
	t.Helper()
	command := exec.Command("sh", append([]string{"-c", reaper, program, program}, arguments...)...)
	// The gateway would take them for its settings.
	command.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "REDIS_GATEWAY_")
	})
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	p := &process{input: input, pid: pid, done: make(chan struct{}), log: &log{}}
	go func() {
		io.Copy(p.log, lines)
		command.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", program, p.log)
		}
	})
	return p
}

// kill ends the program with SIGKILL; it is gone afterwards.
func (p *process) kill() {
	p.input.Close()
	<-p.done
}

// end asks the program to end, and waits until it has.
func (p *process) end(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	Soon(t, "the end of the program", p.done)
}

// pause stops the program, which happens a moment after its signal was sent.
func (p *process) pause(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	Eventually(t, "the program has stopped", func() bool {
		state, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(p.pid)).Output()
		return err == nil && strings.HasPrefix(string(state), "T")
	})
}

// signal sends the program a signal.
func (p *process) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	target, err := os.FindProcess(p.pid)
	if err == nil {
		err = target.Signal(signal)
	}
	if err != nil {
		t.Error(err)
	}
}

// log is what a program has said.
type log struct {
	lock sync.Mutex
	text strings.Builder
}

func (l *log) Write(text []byte) (int, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.Write(text)
}

func (l *log) String() string {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.String()
}
