package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // most of the memory is the index, which is no garbage
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := untilSignal()
	defer stop()
	c := &cli{in: os.Stdin, out: newStream(os.Stdout), err: newStream(os.Stderr)}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return c.report(ctx, err)
}

// untilSignal returns a context that a signal ends. A second signal ends the process.
//
// The end of a terminal comes as more than one SIGHUP, from the kernel and the shell:
// those after the first are ignored, so that the command can end cleanly. A process
// that was started to ignore SIGHUP (nohup) ignores it.
func untilSignal() (context.Context, context.CancelFunc) {
	hangup, unhook := context.Background(), context.CancelFunc(func() {})
	if !signal.Ignored(syscall.SIGHUP) {
		hangup, unhook = signal.NotifyContext(hangup, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(hangup, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		if hangup.Err() != nil {
			signal.Ignore(syscall.SIGHUP)
		}
		unhook()
		stop()
	})
	return ctx, stop
}

// cli is one call of kvctl: what it was told, and where it reads and writes.
type cli struct {
	in       *os.File
	out, err *stream

	target
	json    bool
	verbose bool
	parsed  bool // the command line is fine; what fails now is no misuse of it
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "kvctl",
		Version: version(),
		Short:   "Read and write namespaces of nearkv",
		Long:    rootHelp,
		Args:    cobra.NoArgs,
		RunE:    c.needSubcommand,

		SilenceErrors:    true,
		SilenceUsage:     true,
		PersistentPreRun: func(*cobra.Command, []string) { c.parsed = true },
	}
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	c.addFlags(root)
	root.AddCommand(
		c.getCommand(), c.putCommand(), c.deleteCommand(), c.listCommand(), c.watchCommand(), c.bulkCommand(),
		c.exportCommand(), c.importCommand(), c.namespacesCommand(), c.statusCommand(), c.permissionsCommand(), c.benchCommand(),
		c.checkCommand(), c.repairCommand(),
	)
	return root
}

// needSubcommand is for commands that only group others.
func (c *cli) needSubcommand(cmd *cobra.Command, _ []string) error {
	fmt.Fprint(c.err, cmd.UsageString())
	return misuse("%s needs a command", cmd.CommandPath())
}

const rootHelp = `kvctl reads and writes namespaces of nearkv: those of a directory (--dir), which
may be in use by other processes, or of a NATS server (--url).

  kvctl put -n app user:7 Ada --dir ./data
  kvctl get -n app user:7 --dir ./data

Environment:
  NEARKV_DIR, NEARKV_URL, NEARKV_NAMESPACE   where the flags are not given
  NEARKV_CREDS, NEARKV_USER, NEARKV_PASSWORD, NEARKV_DOMAIN, NEARKV_API_PREFIX
  NO_COLOR                                   no colours on a terminal either

Exit status:
  0    done
  1    it failed for another reason than the following
  2    wrong usage or invalid input; nothing was written
  3    no such key or namespace
  4    the condition of a write does not hold; nothing was written
  5    the store could not be reached in time
  6    a write was sent, and whether it happened is not known
  130  interrupted

Commands that write (put, bulk put, import, bench) create a namespace that does not
exist; all others report it.`

// version is that of the module, as go install knows it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
