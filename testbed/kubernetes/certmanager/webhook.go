package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	config "github.com/cert-manager/cert-manager/internal/apis/config/webhook"
	"github.com/cert-manager/cert-manager/internal/webhook"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/webhook/admission"
)

func webhookCommand() *cobra.Command {
	var (
		shared  *common
		options config.WebhookConfiguration
	)
	command := &cobra.Command{
		Use:           "cert-manager-webhook",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, err := shared.start(command.Context(), "webhook")
			if err != nil {
				return err
			}
			options.KubeConfig = shared.kubeconfig
			return serveWebhook(ctx, options)
		},
	}
	flags := command.Flags()
	shared = addCommon(flags)
	flags.Int32Var(&options.SecurePort, "secure-port", 6443, "port on loopback")
	flags.StringVar(&options.TLSConfig.Filesystem.CertFile, "tls-cert-file", "", "serving certificate")
	flags.StringVar(&options.TLSConfig.Filesystem.KeyFile, "tls-private-key-file", "", "its key")
	return command
}

// serveWebhook serves cert-manager's own admission handlers under the paths of its own server. That server listens on
// every address of the machine and cannot be told otherwise, so the listener is ours: on loopback only, and shared with
// the driver, which holds the port while this program is down.
func serveWebhook(ctx context.Context, options config.WebhookConfiguration) error {
	if !options.TLSConfig.FilesystemConfigProvided() {
		return errors.New("--tls-cert-file and --tls-private-key-file are needed")
	}
	log := logf.FromContext(ctx)
	built, err := webhook.NewCertManagerWebhookServer(log, options)
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle("/mutate", admission.NewCustomMutationWebhook(built.MutationWebhook))
	routes.Handle("/validate", admission.NewCustomValidationWebhook(built.ResourceScheme, built.ValidationWebhook))
	routes.HandleFunc("/healthz", func(writer http.ResponseWriter, _ *http.Request) {
		if !built.CertificateSource.Healthy() {
			writer.WriteHeader(http.StatusInternalServerError)
		}
	})

	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(options.SecurePort)))
	listen := net.ListenConfig{Control: sharePort}
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	server := &http.Server{
		Handler:           routes,
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: built.CertificateSource.GetCertificate},
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return built.CertificateSource.Start(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return server.Shutdown(ending)
	})
	group.Go(func() error {
		log.V(logf.InfoLevel).Info("listening", "address", address)
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return group.Wait()
}

func sharePort(_, _ string, socket syscall.RawConn) error {
	var set error
	if err := socket.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); err != nil {
		return err
	}
	return set
}
