// Package listen bounds the open connections that one address may have to a listener.
package listen

import (
	"net"
	"net/netip"
	"sync"
)

// perAddress bounds the open connections of each remote address, from before the first byte: a connection beyond the bound is closed
// at once. It may be used by several goroutines.
type perAddress struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[netip.Addr]int
}

// PerAddress is a listener that takes at most so many connections of one address at once.
func PerAddress(l net.Listener, most int) net.Listener {
	return &perAddress{Listener: l, most: most, open: map[netip.Addr]int{}}
}

func (p *perAddress) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		// What has no IP address is a socket of this machine, which file modes guard.
		at, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			return c, nil
		}
		from := at.Addr().Unmap().WithZone("")
		if p.enter(from) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { p.leave(from) })}, nil
		}
		_ = c.Close() // its end is all the answer it gets
	}
}

func (p *perAddress) enter(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[a] >= p.most {
		return false
	}
	p.open[a]++
	return true
}

func (p *perAddress) leave(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[a]--; p.open[a] == 0 {
		delete(p.open, a)
	}
}

type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
