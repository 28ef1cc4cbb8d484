// Starts the stopped VMs that a label selector selects, and waits for each.
//
//	start-vms -address 10.0.0.1:8440 -ca ca.pem -certificate ada.pem -key ada.key env=prod
//
// The address and the files are those of your profile, ~/.config/ostler/profile.toml.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"os"

	"google.golang.org/genproto/googleapis/longrunning"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	control "ostler/control/v1"
)

// The name in the control plane's certificate, at whatever address it is reached.
const serverName = "control.ostler.internal"

var (
	address     = flag.String("address", "", "address of the control plane")
	ca          = flag.String("ca", "", "file with the fleet's CA")
	certificate = flag.String("certificate", "", "file with your certificate")
	key         = flag.String("key", "", "file with your key")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	connection, err := grpc.Dial(*address, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig())))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	if err := startVms(context.Background(), connection, flag.Arg(0)); err != nil {
		log.Fatal(explain(err))
	}
}

func tlsConfig() *tls.Config {
	pair, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		log.Fatal(err)
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      roots,
		ServerName:   serverName,
		MinVersion:   tls.VersionTLS13,
	}
}

func startVms(ctx context.Context, connection *grpc.ClientConn, selector string) error {
	vms := control.NewVmServiceClient(connection)
	request := &control.ListVmsRequest{Selector: selector, State: control.Vm_STOPPED}
	for {
		page, err := vms.ListVms(ctx, request)
		if err != nil {
			return err
		}
		for _, vm := range page.Vms {
			if err := start(ctx, connection, vm); err != nil {
				return err
			}
		}
		if page.NextPageToken == "" {
			return nil
		}
		request.PageToken = page.NextPageToken
	}
}

func start(ctx context.Context, connection *grpc.ClientConn, vm *control.Vm) error {
	vms := control.NewVmServiceClient(connection)
	operation, err := vms.StartVm(ctx, &control.StartVmRequest{Vm: vm.Id})
	if err != nil {
		return err
	}
	if err := wait(ctx, connection, operation); err != nil {
		return err
	}
	started, err := vms.GetVm(ctx, &control.GetVmRequest{Vm: vm.Id})
	if err != nil {
		return err
	}
	fmt.Printf("%s runs on %s\n", started.Name, started.HostName)
	return nil
}

// wait returns once the operation has succeeded, or with the error that it ended with.
func wait(ctx context.Context, connection *grpc.ClientConn, operation *longrunning.Operation) error {
	operations := longrunning.NewOperationsClient(connection)
	for !operation.Done {
		// The server answers after a while even if the operation is not done.
		next, err := operations.WaitOperation(ctx, &longrunning.WaitOperationRequest{Name: operation.Name})
		if err != nil {
			return err
		}
		operation = next
	}
	if failure := operation.GetError(); failure != nil {
		return status.ErrorProto(failure)
	}
	return nil
}

// explain adds the reason of an error of Ostler's, a stable word for programs.
func explain(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return fmt.Sprintf("%s [%s]", status.Convert(err).Message(), info.Reason)
		}
	}
	return err.Error()
}
