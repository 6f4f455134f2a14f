// Package process is what the daemon asks of the system that runs it: systemd and the kernel.
package process

import (
	"net"
	"os"
	"time"
)

// Notify tells systemd how the daemon is, if systemd started it (sd_notify(3)). Nothing depends on its success.
func Notify(state string) {
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
