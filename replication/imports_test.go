package replication

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nearkv/nearkv"

// goList runs go list in this directory, as on linux/amd64.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command to ask")
	}
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	return strings.Fields(string(out))
}

// The packages import each other in one direction only.
func TestImportGraph(t *testing.T) {
	allowed := map[string][]string{
		module + "/codec":                       nil,
		module + "/replication/redact":          nil,
		module + "/replication/embedded/blocks": nil,
		module + "/replication/embedded":        {module + "/replication/embedded/blocks", module + "/replication/redact"},
		module + "/replication":                 {module + "/codec"},
		module + "/kvstore/internal/tempfile":   nil,
		module + "/kvstore": {
			module + "/codec", module + "/kvstore/internal/tempfile", module + "/replication", module + "/replication/embedded",
			module + "/replication/redact",
		},
		module + "/kvstore/kvctl": {
			module + "/codec", module + "/kvstore", module + "/kvstore/internal/tempfile", module + "/replication",
			module + "/replication/embedded", module + "/replication/redact",
		},
		module + "/kvstore/kvstoretest": {module + "/replication/embedded"},
	}
	for pkg, want := range allowed {
		var got []string
		for _, dep := range goList(t, "-f", `{{join .Imports "\n"}}`, pkg) {
			if strings.HasPrefix(dep, module) {
				got = append(got, dep)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s imports %v, not %v", pkg, got, want)
		}
	}
}

// What a user of kvstore gets: a new module in this list is a decision.
func TestImportClosure(t *testing.T) {
	want := []string{
		"github.com/antithesishq/antithesis-sdk-go",
		"github.com/cespare/xxhash/v2",
		"github.com/dgraph-io/ristretto/v2",
		"github.com/dustin/go-humanize",
		"github.com/gofrs/flock",
		"github.com/klauspost/compress",
		"github.com/minio/highwayhash",
		"github.com/nats-io/jwt/v2",
		"github.com/nats-io/nats-server/v2",
		"github.com/nats-io/nats.go",
		"github.com/nats-io/nkeys",
		"github.com/nats-io/nuid",
		"github.com/nearkv/nearkv",
		"github.com/puzpuzpuz/xsync/v4",
		"github.com/tidwall/btree",
		"github.com/vmihailenco/msgpack/v5",
		"github.com/vmihailenco/tagparser/v2",
		"golang.org/x/crypto",
		"golang.org/x/sys",
		"golang.org/x/time",
	}
	modules := make(map[string]bool)
	for _, path := range goList(t, "-deps", "-f", `{{with .Module}}{{.Path}}{{end}}`, module+"/kvstore") {
		modules[path] = true
	}
	if got := slices.Sorted(maps.Keys(modules)); !slices.Equal(got, want) {
		t.Errorf("the import closure of kvstore is\n%s", strings.Join(got, "\n"))
	}
	for _, dep := range goList(t, "-deps", module+"/kvstore") {
		if dep == "testing" || dep == "pgregory.net/rapid" || strings.HasPrefix(dep, "go.uber.org/") {
			t.Errorf("kvstore imports %s, which is for tests", dep)
		}
	}
}
