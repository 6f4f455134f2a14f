package main

import (
	"net"
	"os"
	"time"
)

// notify tells systemd how the daemon is, if systemd started it (sd_notify(3)). Nothing depends on its success.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	c, err := net.DialTimeout("unixgram", name, time.Second) // a name that begins with @ is an abstract one
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state)) // systemd notices by itself when it hears nothing
}
