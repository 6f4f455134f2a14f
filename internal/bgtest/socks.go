package bgtest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"sync/atomic"
	"testing"

	"github.com/armon/go-socks5"
)

// HiddenHost is a name that only the proxy of Socks5 knows.
const HiddenHost = "only-the-proxy-knows.invalid"

type hiddenHost struct{}

func (hiddenHost) Resolve(ctx context.Context, name string) (context.Context, net.IP, error) {
	if name != HiddenHost {
		return ctx, nil, errors.New("no such host")
	}
	return ctx, net.IPv4(127, 0, 0, 1), nil
}

// Socks5 starts a SOCKS5 proxy that leads to one address (host:port), by the name of HiddenHost alone.
func Socks5(t testing.TB, to string) (proxyURL string, connections *atomic.Int32) {
	t.Helper()
	connections = new(atomic.Int32)
	s, err := socks5.New(&socks5.Config{Resolver: hiddenHost{}, Logger: log.New(io.Discard, "", 0),
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			connections.Add(1)
			return new(net.Dialer).DialContext(ctx, network, to)
		}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = s.Serve(l) }() // ends with the listener
	return "socks5://" + l.Addr().String(), connections
}
