// Command certmanager is cert-manager's controllers and its webhook in one program, which is the part that it is called
// by (a symlink for each). cert-manager's own commands are modules of their own that no registry has; what they start is
// all in the root module, and that is what runs here. ACME and Venafi are left out: nothing here can reach them.
//
// Apart from Command kube because both register flags, metrics and feature gates of the same names for their process.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"

	"github.com/cert-manager/cert-manager/ensign-testbed/parent"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	utilfeature "github.com/cert-manager/cert-manager/pkg/util/feature"
)

// parts by the name of the symlink.
var parts = map[string]func() *cobra.Command{
	"cert-manager-controller": controllerCommand,
	"cert-manager-webhook":    webhookCommand,
}

func main() {
	parent.Follow()
	name := filepath.Base(os.Args[0])
	part, known := parts[name]
	if !known {
		fmt.Fprintf(os.Stderr, "certmanager: called as %q; call it through a symlink named cert-manager-controller or cert-manager-webhook\n", name)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	logf.InitLogs()
	err := part().ExecuteContext(ctx)
	logf.FlushLogs()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// common holds the flags that both parts have, under the names that cert-manager gives them.
type common struct {
	kubeconfig string
	logging    *logsapi.LoggingConfiguration
}

func addCommon(flags *pflag.FlagSet) *common {
	options := &common{logging: logsapi.NewLoggingConfiguration()}
	flags.StringVar(&options.kubeconfig, "kubeconfig", "", "how to reach the API server and as whom")
	utilfeature.DefaultMutableFeatureGate.AddFlag(flags)
	logf.AddFlags(options.logging, flags)
	return options
}

// start applies what must stand before anything logs.
func (options *common) start(ctx context.Context, name string) (context.Context, error) {
	if options.kubeconfig == "" {
		return nil, fmt.Errorf("--kubeconfig is missing")
	}
	if err := logf.ValidateAndApply(options.logging); err != nil {
		return nil, err
	}
	return logf.NewContext(ctx, logf.Log.WithName(name)), nil
}
