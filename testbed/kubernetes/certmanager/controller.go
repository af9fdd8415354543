package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cert-manager/cert-manager/internal/controller/feature"
	"github.com/cert-manager/cert-manager/pkg/controller"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	utilfeature "github.com/cert-manager/cert-manager/pkg/util/feature"

	// Each of these registers its controller.
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/vault"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificatesigningrequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificatesigningrequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificatesigningrequests/vault"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/vault"
)

// csrControllers begin with this word; the feature gate decides whether they run.
const csrControllers = "certificatesigningrequests-"

func controllerCommand() *cobra.Command {
	var (
		shared      *common
		options     controller.ContextOptions
		workers     int
		controllers []string
	)
	command := &cobra.Command{
		Use:           "cert-manager-controller",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, err := shared.start(command.Context(), "controller")
			if err != nil {
				return err
			}
			options.Kubeconfig = shared.kubeconfig
			return runControllers(ctx, options, workers, controllers)
		},
	}
	flags := command.Flags()
	shared = addCommon(flags)
	flags.StringVar(&options.ClusterResourceNamespace, "cluster-resource-namespace", "cert-manager", "where a ClusterIssuer's Secret is")
	flags.Float32Var(&options.KubernetesAPIQPS, "kube-api-qps", 20, "requests per second to the API server, all controllers together")
	flags.IntVar(&options.KubernetesAPIBurst, "kube-api-burst", 50, "requests that may exceed --kube-api-qps at once")
	flags.IntVar(&workers, "concurrent-workers", 5, "workers of each controller")
	flags.StringSliceVar(&controllers, "controllers", []string{"*"}, "controllers to run: * for all, -name to leave one out")
	flags.StringSliceVar(&options.CopiedAnnotationPrefixes, "copied-annotation-prefixes",
		[]string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"}, "annotations copied from a Certificate to its CertificateRequest")
	return command
}

func runControllers(ctx context.Context, options controller.ContextOptions, workers int, wanted []string) error {
	log := logf.FromContext(ctx)
	factory, err := controller.NewContextFactory(ctx, options)
	if err != nil {
		return err
	}
	base, err := factory.Build()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for name, construct := range controller.Known() {
		if !runs(name, wanted) {
			log.V(logf.InfoLevel).Info("controller left out", "controller", name)
			continue
		}
		// Before any informer starts: constructing one registers what it watches.
		instance, err := construct(factory)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
		group.Go(func() error {
			log.V(logf.InfoLevel).Info("starting controller", "controller", name)
			err := instance.Run(workers, ctx)
			if ctx.Err() == nil && err == nil {
				err = errors.New("ended by itself")
			}
			if err != nil {
				return fmt.Errorf("controller %s: %w", name, err)
			}
			return nil
		})
	}
	base.SharedInformerFactory.Start(ctx.Done())
	base.KubeSharedInformerFactory.Start(ctx.Done())
	base.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())
	log.V(logf.InfoLevel).Info("controllers started")
	return group.Wait()
}

// runs reads --controllers as cert-manager does, and gives the feature gate the last word.
func runs(name string, wanted []string) bool {
	if strings.HasPrefix(name, csrControllers) && !utilfeature.DefaultFeatureGate.Enabled(feature.ExperimentalCertificateSigningRequestControllers) {
		return false
	}
	enabled := false
	for _, item := range wanted {
		switch item {
		case "*", name:
			enabled = true
		case "-" + name:
			return false
		}
	}
	return enabled
}
