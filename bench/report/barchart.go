package main

// barChart shows one figure for each peer, in groups, on a logarithmic axis.
type barChart struct {
	title, axis, unit string
	groups            []barGroup
}

type barGroup struct {
	name string
	bars []namedValue
}

type namedValue struct {
	name  string
	value float64
}

const (
	barHeight  = 16.0
	barGap     = 6.0
	groupGap   = 34.0 // with the name of the group
	chartWidth = 820.0
)

func (b barChart) draw() []byte {
	const left, top, bottom = 160.0, 44.0, 52.0
	values, height := []float64{}, top+bottom
	for _, g := range b.groups {
		height += groupGap + float64(len(g.bars))*(barHeight+barGap)
		for _, v := range g.bars {
			values = append(values, v.value)
		}
	}
	c := newCanvas(chartWidth, height, b.title)
	x := newLogScale(values, left, chartWidth-110)
	base := height - bottom
	for _, mark := range x.marks() {
		c.line(x.at(mark), top, x.at(mark), base, faint)
		c.text(x.at(mark), base+18, "middle", "", formatMark(mark, b.unit))
	}
	c.text((x.from+x.to)/2, base+40, "middle", "", b.axis)
	y := top
	for _, g := range b.groups {
		c.text(16, y+22, "start", `font-weight="600"`, g.name)
		y += groupGap
		for _, v := range g.bars {
			c.text(left-8, y+barHeight-3, "end", "", v.name)
			c.rect(x.from, y, x.at(v.value)-x.from, barHeight, colorOf(v.name))
			c.text(x.at(v.value)+6, y+barHeight-3, "start", "", format(v.value, b.unit))
			y += barHeight + barGap
		}
	}
	return c.done()
}
