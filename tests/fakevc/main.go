// Command fakevc is a vCenter for tests: govmomi's simulator with what its
// 0.24.2 release lacks for exporting VMs (VirtualMachine.ExportVm, NFC leases
// that serve disks, OvfManager.CreateDescriptor) and with faults on demand.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// vmSpec is one VM of the -spec file, a JSON list.
type vmSpec struct {
	Name     string   `json:"name"`
	CPUs     int32    `json:"cpus"`
	MemoryMB int64    `json:"memory_mb"`
	Guest    string   `json:"guest"`    // e.g. ubuntu64Guest
	Firmware string   `json:"firmware"` // bios or efi
	Secure   bool     `json:"secure_boot"`
	TPM      bool     `json:"tpm"`
	On       bool     `json:"on"`
	Tools    bool     `json:"tools"`       // VMware Tools run
	NoTrack  bool     `json:"no_tracking"` // its hardware is too old for changed block tracking
	Nics     []string `json:"nics"`        // network names
	Disks    []struct {
		KB   int64  `json:"kb"`
		File string `json:"file"` // the VMDK that an export of the disk serves
		Flat string `json:"flat"` // the raw file that /folder serves as its -flat.vmdk, and that the guest writes to
	} `json:"disks"`
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func addVM(ctx context.Context, c *vim25.Client, v vmSpec) {
	finder := find.NewFinder(c, false)
	dc, err := finder.DefaultDatacenter(ctx)
	must(err)
	finder.SetDatacenter(dc)
	folders, err := dc.Folders(ctx)
	must(err)
	pool, err := finder.ResourcePool(ctx, "*/Resources")
	if err != nil { // a vCenter has several
		pool, err = finder.ResourcePool(ctx, "DC0_C0/Resources")
	}
	must(err)
	ds, err := finder.DefaultDatastore(ctx)
	must(err)

	var devs object.VirtualDeviceList
	scsi, err := devs.CreateSCSIController("pvscsi")
	must(err)
	devs = append(devs, scsi)
	for i, d := range v.Disks {
		disk := devs.CreateDisk(scsi.(types.BaseVirtualController), ds.Reference(),
			fmt.Sprintf("[%s] %s/%s_%d.vmdk", ds.Name(), v.Name, v.Name, i))
		disk.CapacityInKB, disk.CapacityInBytes = d.KB, d.KB<<10
		disk.DeviceInfo = &types.Description{Label: fmt.Sprintf("Hard disk %d", i+1)}
		devs = append(devs, disk)
	}
	for i, name := range v.Nics {
		net, err := finder.Network(ctx, name)
		must(err)
		backing, err := net.EthernetCardBackingInfo(ctx)
		must(err)
		nic, err := devs.CreateEthernetCard("vmxnet3", backing)
		must(err)
		nic.GetVirtualDevice().DeviceInfo = &types.Description{Label: fmt.Sprintf("Network adapter %d", i+1)}
		devs = append(devs, nic)
	}
	spec := types.VirtualMachineConfigSpec{Name: v.Name, GuestId: v.Guest, NumCPUs: v.CPUs, MemoryMB: v.MemoryMB,
		Firmware: v.Firmware, Files: &types.VirtualMachineFileInfo{VmPathName: "[" + ds.Name() + "]"}}
	spec.DeviceChange, err = devs.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	must(err)
	task, err := folders.VmFolder.CreateVM(ctx, spec, pool, nil)
	must(err)
	info, err := task.WaitForResult(ctx, nil)
	must(err)
	ref := info.Result.(types.ManagedObjectReference)
	for i, d := range disksOf(simulator.Map.Get(ref).(*simulator.VirtualMachine)) {
		if f := v.Disks[i].File; f != "" { // the datastore's file is the truth: NFC and /folder both read it
			f, err = filepath.Abs(f)
			must(err)
			must(os.Remove(diskFile(d)))
			must(os.Symlink(f, diskFile(d)))
		}
		if f := v.Disks[i].Flat; f != "" {
			f, err = filepath.Abs(f)
			must(err)
			_ = os.Remove(flatFile(d))
			must(os.Symlink(f, flatFile(d)))
		}
	}
	vm := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	vm.Config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(v.Secure)}
	if v.TPM {
		vm.Config.Hardware.Device = append(vm.Config.Hardware.Device, &types.VirtualTPM{VirtualDevice: types.VirtualDevice{
			Key: 11000, DeviceInfo: &types.Description{Label: "Virtual TPM", Summary: "Trusted Platform Module"}}})
	}
	vm.Capability.ChangeTrackingSupported = types.NewBool(!v.NoTrack)
	if v.Tools {
		vm.Guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	}
	if v.On {
		task, err = object.NewVirtualMachine(c, ref).PowerOn(ctx)
		must(err)
		must(task.Wait(ctx))
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "listen address")
	user := flag.String("user", "administrator@vsphere.local", "the only accepted user")
	cert := flag.String("cert", "", "TLS certificate (PEM)")
	key := flag.String("key", "", "TLS key (PEM)")
	esxCert := flag.String("esx-cert", "", "certificate of a second listener that serves the disks, as an ESXi host would")
	esxKey := flag.String("esx-key", "", "its key")
	standalone := flag.Bool("standalone", false, "be an ESXi host without a vCenter")
	specs := flag.String("spec", "", "JSON file with the VMs")
	flag.DurationVar(&simulator.SessionIdleTimeout, "session-idle", 0, "sessions end after so long unused")
	flag.Parse()

	// On standard input, for an argument list is public.
	pass, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	pass = strings.TrimSpace(pass)
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	must(err)
	raw, err := os.ReadFile(*specs)
	must(err)
	var vms []vmSpec
	must(json.Unmarshal(raw, &vms))

	model := simulator.VPX()
	if *standalone {
		model = simulator.ESX()
	}
	model.Machine = 0
	model.ServiceContent.About.ApiVersion = "6.7" // the first that has a virtual TPM
	must(model.Create())
	defer model.Remove()
	extend(*standalone)
	ctx := context.Background()
	c, err := vim25.NewClient(ctx, model.Service) // in process, no HTTP
	must(err)
	for _, v := range vms {
		addVM(ctx, c, v)
	}

	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	model.Service.Listen = &url.URL{Host: *addr, User: url.UserPassword(*user, pass)}
	srv := model.Service.NewServer()
	defer srv.CloseClientConnections()
	srv.Config.Handler = &front{next: srv.Config.Handler, user: *user}
	lease0.host, lease0.thumbprint = srv.URL.Host, srv.CertificateInfo().ThumbprintSHA1

	if *esxCert != "" {
		pair, err := tls.LoadX509KeyPair(*esxCert, *esxKey)
		must(err)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
		must(err)
		var hci object.HostCertificateInfo
		x, err := x509.ParseCertificate(pair.Certificate[0])
		must(err)
		lease0.host, lease0.thumbprint = l.Addr().String(), hci.FromCertificate(x).ThumbprintSHA1
		go func() { _ = http.Serve(l, &front{next: http.NotFoundHandler(), user: *user}) }()
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	ctl, err := net.Listen("tcp", "127.0.0.1:0") // the tests' side door, apart from what a client can see
	must(err)
	go func() { _ = http.Serve(ctl, http.HandlerFunc(control)) }()
	must(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"pid": os.Getpid(), "addr": srv.URL.Host, "control": "http://" + ctl.Addr().String()}))

	<-stop
}
