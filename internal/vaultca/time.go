package vaultca

import (
	"context"
	"time"
)

// Time implements record.TimeSource with Vault's clock, to the second. A sealed Vault tells the time too.
func (c *CA) Time(ctx context.Context) (time.Time, error) {
	h, err := c.Health(ctx)
	if !h.ServerTime.IsZero() {
		return h.ServerTime, nil
	}
	return time.Time{}, err
}
