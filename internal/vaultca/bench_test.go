package vaultca

import (
	"context"
	"net/http"
	"testing"
	"time"
)

// BenchmarkSign compares a checked signature through CA with a bare pki/sign on the same Vault, one after the other in each
// round, so that the noise of the machine hits both, for both curves that setup.sh makes CAs on. The ratios are what counts; the
// time of a bare call is only for scale.
func BenchmarkSign(b *testing.B) {
	for _, bits := range []string{"256", "384"} {
		b.Run("P-"+bits, func(b *testing.B) { benchmarkSign(b, scriptWorld(b, "--key-bits", bits)) })
	}
}

func benchmarkSign(b *testing.B, w *world) {
	c := w.open(b)
	mustSign(b, c, newOrder(b, ""))
	raw, err := w.vault.ClientWithToken(c.session.Load().token)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	var bare, sign, check time.Duration
	timed := func(into *time.Duration, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		*into += time.Since(start)
	}
	n := 0
	for b.Loop() {
		n++
		body, o := w.signBody(b, nil), newOrder(b, "")
		timed(&bare, func() error {
			r := raw.NewRequest(http.MethodPost, "/v1/"+w.mount.Path+"/sign/breakglass")
			if err := r.SetJSONBody(body); err != nil {
				return err
			}
			resp, err := raw.RawRequestWithContext(ctx, r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return resp.DecodeJSON(&struct{}{})
		})
		timed(&check, func() error { return c.Check(ctx, "prod", "") })
		timed(&sign, func() error { _, err := c.Sign(ctx, o); return err })
	}
	b.ReportMetric(float64(bare.Microseconds())/float64(n), "bare-µs/op")
	b.ReportMetric(float64(sign)/float64(bare), "sign/bare")
	b.ReportMetric(float64(check+sign)/float64(bare), "check+sign/bare")
}
