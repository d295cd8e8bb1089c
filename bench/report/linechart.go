package main

import "math"

// lineChart shows how a figure grows, on a logarithmic axis.
type lineChart struct {
	title, xAxis, yAxis, unit string
	marks                     []mark // on the horizontal axis, ascending
	lines                     []line
}

type mark struct {
	at   float64
	name string
}

// line has a value for some of the marks; NaN stands for none.
type line struct {
	name   string
	values []float64
}

// draw puts a table of the values below the lines: beside them they would cover
// each other.
func (l lineChart) draw() []byte {
	const left, right, top, plot, row = 190.0, chartWidth - 30.0, 48.0, 300.0, 20.0
	bottom := top + plot
	c := newCanvas(chartWidth, bottom+62+row*float64(len(l.lines)), l.title)
	y := newLogScale(l.values(), bottom, top)
	for _, m := range y.marks() {
		c.line(left, y.at(m), right, y.at(m), faint)
		c.text(left-8, y.at(m)+4, "end", "", formatMark(m, l.unit))
	}
	c.text(24, top+plot/2, "middle", rotated(24, top+plot/2), l.yAxis)
	x := l.xScale(left+40, right-40)
	for i, m := range l.marks {
		c.line(x(i), top, x(i), bottom, faint)
		c.text(x(i), bottom+20, "middle", `font-weight="600"`, m.name)
	}
	for i, line := range l.lines {
		c.polyline(line.points(x, y), colorOf(line.name), widthOf(line.name))
		l.drawRow(c, line, bottom+20+row*float64(i+1), x)
	}
	c.text((left+right)/2, c.height-14, "middle", "", l.xAxis)
	return c.done()
}

// drawRow writes the values of a line below their marks.
func (l lineChart) drawRow(c *canvas, line line, base float64, x func(int) float64) {
	c.rect(16, base-10, 12, 12, colorOf(line.name))
	c.text(34, base, "start", "", line.name)
	for i, v := range line.values {
		if !math.IsNaN(v) {
			c.text(x(i), base, "middle", "", format(v, l.unit))
		}
	}
}

func (l line) points(x func(int) float64, y logScale) [][2]float64 {
	var points [][2]float64
	for i, v := range l.values {
		if !math.IsNaN(v) {
			points = append(points, [2]float64{x(i), y.at(v)})
		}
	}
	return points
}

func (l lineChart) values() []float64 {
	var values []float64
	for _, line := range l.lines {
		for _, v := range line.values {
			if !math.IsNaN(v) {
				values = append(values, v)
			}
		}
	}
	return values
}

// xScale returns where the marks are.
func (l lineChart) xScale(from, to float64) func(i int) float64 {
	first, last := l.marks[0].at, l.marks[len(l.marks)-1].at
	if first == last {
		return func(int) float64 { return (from + to) / 2 }
	}
	return func(i int) float64 { return from + (to-from)*(l.marks[i].at-first)/(last-first) }
}
