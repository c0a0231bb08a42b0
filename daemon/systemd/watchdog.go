package systemd

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Report tells the service manager every few seconds, until ctx is done, that this
// process is well and what status returns. A status that doesn't return is the sign
// that it is not well: if the unit has a watchdog, that ends the process.
func Report(ctx context.Context, status func() string) {
	period := 10 * time.Second
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err == nil && watchdog > 0 {
		period = min(period, watchdog/3)
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		Notify("STATUS="+status(), "WATCHDOG=1")
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
