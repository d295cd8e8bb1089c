package main

import (
	"fmt"
	"strings"
	"time"
)

// job is a test, or some, that runs again and again.
type job struct {
	name    string
	pkg     string // a directory of the repository
	tests   string // regexp for -test.run, or one fuzz target
	fuzz    bool
	seed    string   // the flag or the environment variable that takes a seed, as FLAG= or NAME=; "": it takes a new one itself, and prints it
	env     []string // NAME=VALUE
	args    []string
	timeout time.Duration // beyond it, the test hangs
}

const (
	testTimeout = 10 * time.Minute
	fuzzTime    = 20 * time.Second
)

// jobs are all but the fuzz targets, which are found in the test binaries.
var jobs = []job{
	{name: "kill -9 of a writer", pkg: "kvstore", tests: "^TestKill9$", seed: "NEARKV_SEED=", env: []string{"NEARKV_KILLS=30"}},
	{name: "kill -9 of batches and large values", pkg: "kvstore", tests: "^TestBatchKill9$", env: []string{"NEARKV_KILLS=20"}},
	{name: "kill -9 of who serves a directory", pkg: "kvstore", tests: "^TestShareKill9$", env: []string{"NEARKV_SHARE_KILLS=10"}},
	{name: "kill -9 of voters", pkg: "kvstore", tests: "^TestClusterKill9$", env: []string{"NEARKV_CLUSTER_KILLS=2"}},
	{name: "kill -9 of synced writers", pkg: "kvstore", tests: "^TestKill9Synced$"},
	{name: "server faults in a cluster", pkg: "kvstore", tests: "^TestNATSCluster$"},
	{name: "faults of connections", pkg: "kvstore", tests: "^TestFaults$", seed: "-faultseed="},
	{name: "harm to the log", pkg: "kvstore", tests: "^TestRandomHarm$", seed: "-faultseed="},
	{name: "faults of large values", pkg: "kvstore", tests: "^TestLarge(Cut|Damaged|Writers|Conditions)$"},
	{name: "model of two replicas", pkg: "kvstore", tests: "^TestModel$"},
	{name: "model of a directory", pkg: "kvstore", tests: "^TestModelDir$"},
	{name: "model of the index", pkg: "kvstore", tests: "^TestIndexModel$"},
	{name: "model of the cursor", pkg: "replication", tests: "^TestCursor"},
	{name: "hostile neighbours", pkg: "kvstore", tests: "^TestNeighbours", seed: "NEARKV_SEED="},
	{name: "damaged stores", pkg: "kvstore", tests: "^TestDamage$", seed: "NEARKV_SEED=", env: []string{"NEARKV_DAMAGE=6"}},
}

// fuzzPackages are those with fuzz targets.
var fuzzPackages = []string{"codec", "replication", "replication/embedded/blocks", "kvstore"}

func fuzzJob(pkg, target string) job {
	return job{name: "fuzz " + pkg + "." + target, pkg: pkg, tests: target, fuzz: true}
}

// command returns the arguments and the environment of a run.
func (j *job) command(seed uint32) (args, env []string) {
	env = j.env
	switch {
	case j.fuzz:
		args = []string{"-test.run=^$", "-test.fuzz=^" + j.tests + "$", "-test.fuzztime=" + fuzzTime.String(), "-test.parallel=1"}
	default:
		args = append([]string{"-test.v", "-test.run=" + j.tests, "-test.timeout=" + j.limit().String()}, j.args...)
	}
	switch {
	case j.seed == "":
	case strings.HasPrefix(j.seed, "-"):
		args = append(args, fmt.Sprint(j.seed, seed))
	default:
		env = append(env[:len(env):len(env)], fmt.Sprint(j.seed, seed))
	}
	return args, env
}

func (j *job) limit() time.Duration {
	if j.timeout != 0 {
		return j.timeout
	}
	return testTimeout
}

// repeat is the command with which a user repeats a run.
func (j *job) repeat(seed uint32) string {
	args, env := j.command(seed)
	words := append([]string(nil), env...)
	words = append(words, "go", "test", "./"+j.pkg)
	for _, arg := range args {
		if strings.HasPrefix(arg, "-test.fuzztime") || strings.HasPrefix(arg, "-test.parallel") {
			continue
		}
		name, value, ok := strings.Cut(strings.Replace(arg, "-test.", "-", 1), "=")
		if ok {
			value = "='" + value + "'"
		}
		words = append(words, name+value)
	}
	return strings.Join(words, " ")
}
