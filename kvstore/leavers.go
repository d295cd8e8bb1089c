package kvstore

// leavers counts the records that the log may have removed by now: those that need
// to hide nothing any more. To count them by looking at each would keep writers
// waiting for 100 ms when a million keys expire at the same time. So there is a count
// for each second, and the sum of those up to one of them, which moves on with the
// clock: that costs as many steps as seconds have passed.
type leavers struct {
	seconds map[int64]int // records, by the second in which they cease to hide
	until   int64         // the last second that is part of sum
	sum     int
}

func newLeavers(now int64) leavers {
	return leavers{seconds: make(map[int64]int), until: leavingSecond(now)}
}

// secondOf returns the second of a time in unix milliseconds.
func secondOf(milli int64) int64 {
	if milli < 0 {
		return (milli - 999) / 1000
	}
	return milli / 1000
}

// leavingSecond is the last second whose records the log may have removed at now, by
// the server's clock, which rounds to seconds.
func leavingSecond(now int64) int64 { return secondOf(now + 1000) }

// add counts one record more or less (by is 1 or -1) that hides others until then.
func (l *leavers) add(hides int64, by int) {
	second := secondOf(hides)
	if l.seconds[second] += by; l.seconds[second] == 0 {
		delete(l.seconds, second)
	}
	if second <= l.until {
		l.sum += by
	}
}

// count returns how many records the log may have removed at now.
func (l *leavers) count(now int64) int {
	to := leavingSecond(now)
	if steps := to - l.until; max(steps, -steps) > int64(len(l.seconds)) { // the clock was set
		l.sum = 0
		for second, n := range l.seconds {
			if second <= to {
				l.sum += n
			}
		}
		l.until = to
		return l.sum
	}
	for ; l.until < to; l.until++ {
		l.sum += l.seconds[l.until+1]
	}
	for ; l.until > to; l.until-- {
		l.sum -= l.seconds[l.until]
	}
	return l.sum
}
