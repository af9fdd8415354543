//! Ring `kubernetes`: a real Kubernetes with a real cert-manager.
//!
//! Most tests share one cluster per run and have a namespace each; those that break a component have their own.

#[path = "ring_kubernetes/admission.rs"]
mod admission;
#[path = "ring_kubernetes/attack/mod.rs"]
mod attack;
#[path = "ring_kubernetes/authn.rs"]
mod authn;
#[path = "ring_kubernetes/authority.rs"]
mod authority;
#[path = "ring_kubernetes/bed/mod.rs"]
mod bed;
#[path = "ring_kubernetes/burst.rs"]
mod burst;
#[path = "ring_kubernetes/cert_manager.rs"]
mod cert_manager;
#[path = "ring_kubernetes/chart/mod.rs"]
mod chart;
#[path = "ring_kubernetes/clusters.rs"]
mod clusters;
#[path = "ring_kubernetes/cost.rs"]
mod cost;
#[path = "ring_kubernetes/crowd.rs"]
mod crowd;
#[path = "ring_kubernetes/csr_approval.rs"]
mod csr_approval;
#[path = "ring_kubernetes/deploy.rs"]
mod deploy;
#[path = "ring_kubernetes/distribution/mod.rs"]
mod distribution;
#[path = "ring_kubernetes/exercise.rs"]
mod exercise;
#[path = "ring_kubernetes/fleet.rs"]
mod fleet;
#[path = "ring_kubernetes/giving_up.rs"]
mod giving_up;
#[path = "ring_kubernetes/hostile.rs"]
mod hostile;
#[path = "ring_kubernetes/impersonation.rs"]
mod impersonation;
#[path = "ring_kubernetes/install.rs"]
mod install;
#[path = "ring_kubernetes/istio.rs"]
mod istio;
#[path = "ring_kubernetes/istio_csr.rs"]
mod istio_csr;
#[path = "ring_kubernetes/istio_csr_page.rs"]
mod istio_csr_page;
#[path = "ring_kubernetes/istio_custom_ca.rs"]
mod istio_custom_ca;
#[path = "ring_kubernetes/istiod_tls.rs"]
mod istiod_tls;
#[path = "ring_kubernetes/kubernetes_csr.rs"]
mod kubernetes_csr;
#[path = "ring_kubernetes/leader.rs"]
mod leader;
#[path = "ring_kubernetes/leak.rs"]
mod leak;
#[path = "ring_kubernetes/mesh.rs"]
mod mesh;
#[path = "ring_kubernetes/object_life.rs"]
mod object_life;
#[path = "ring_kubernetes/operator.rs"]
mod operator;
#[path = "ring_kubernetes/outage.rs"]
mod outage;
#[path = "ring_kubernetes/port_forward.rs"]
mod port_forward;
#[path = "ring_kubernetes/program.rs"]
mod program;
#[path = "ring_kubernetes/pushback.rs"]
mod pushback;
#[path = "ring_kubernetes/replica.rs"]
mod replica;
#[path = "ring_kubernetes/rights.rs"]
mod rights;
#[path = "ring_kubernetes/rights_used.rs"]
mod rights_used;
#[path = "ring_kubernetes/rolling.rs"]
mod rolling;
#[path = "ring_kubernetes/roots.rs"]
mod roots;
#[path = "ring_kubernetes/scene.rs"]
mod scene;
#[path = "ring_kubernetes/serving.rs"]
mod serving;
