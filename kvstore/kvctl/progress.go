package main

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on stderr with the rate and the time that is left. There is
// none where stderr is no terminal.
type progress struct{ bar *progressbar.ProgressBar }

// begin shows a bar that ends at total, of bytes or of what unit says. A total of
// -1 is not known.
func (c *cli) begin(what string, total int64, unit string) *progress {
	if !c.err.terminal {
		return &progress{}
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(c.err.file), progressbar.OptionSetDescription(c.err.name(what)), progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(100 * time.Millisecond), progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount(),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetRenderBlankState(true), progressbar.OptionShowIts(),
		progressbar.OptionUseIECUnits(true),
	}
	if unit == "bytes" {
		options = append(options, progressbar.OptionShowBytes(true))
	} else {
		options = append(options, progressbar.OptionSetItsString(unit))
	}
	return &progress{progressbar.NewOptions64(total, options...)}
}

func (p *progress) set(n int64) {
	if p.bar != nil {
		_ = p.bar.Set64(n) // a bar that cannot be drawn stops nothing
	}
}

// Write counts bytes.
func (p *progress) Write(b []byte) (int, error) {
	if p.bar != nil {
		_ = p.bar.Add(len(b))
	}
	return len(b), nil
}

// end removes the bar.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
		_ = p.bar.Clear()
	}
}

// clear makes room for a line; the bar comes again below it.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
