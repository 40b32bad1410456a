// Package round makes whole numbers of lengths of time.
package round

import "time"

// Up is how many whole units d has, rounded up: what is asked for is not to become nothing, nor less.
func Up(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
