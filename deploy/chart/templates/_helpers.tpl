{{/* Name of the RA's objects. */}}
{{- define "ensign.ra" -}}
{{ .Values.nameOverride | default "ensign-ra" }}
{{- end -}}

{{/* What the RA calls its installation: its Lease and the record of its roots begin with it. */}}
{{- define "ensign.installation" -}}
{{ get .Values.ra.config "ENSIGN_RA_INSTALLATION" | default (include "ensign.ra" . | trimSuffix "-ra") }}
{{- end -}}

{{/* The leader's Lease. */}}
{{- define "ensign.lease" -}}
{{ get .Values.ra.config "ENSIGN_RA_LEADER_ELECTION_LEASE" | default (printf "%s-ra" (include "ensign.installation" .)) }}
{{- end -}}

{{/* Namespace of the agent. */}}
{{- define "ensign.agentNamespace" -}}
{{ .Values.agent.namespace.name | default .Release.Namespace }}
{{- end -}}

{{/* Labels of every object, on lines of their own below those that it has. */}}
{{- define "ensign.common" -}}
{{- with .Values.commonLabels }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}

{{/* An image: a list of the chart's root and the image's values. */}}
{{- define "ensign.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- $made := printf "%s/%s/%s" $root.Values.imageRegistry $root.Values.imageNamespace $image.name | replace "//" "/" | trimPrefix "/" }}
{{- $image.repository | default $made }}
{{- if or $image.tag (not $image.digest) }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Processor time and memory, what is asked for first. */}}
{{- define "ensign.resources" -}}
{{- range $key := list "requests" "limits" "claims" }}
{{- with get $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* ConfigMap that names the issuer at run time, if one is followed. */}}
{{- define "ensign.runtimeConfigMap" -}}
{{- with .Values.app.runtimeConfiguration }}
{{- .name | default $.Values.app.runtimeIssuanceConfigMap | default (ternary (printf "%s-issuer" (include "ensign.ra" $)) "" .create) }}
{{- end }}
{{- end -}}

{{/* Whether the signers are those of Istio's own configuration. */}}
{{- define "ensign.istioSigners" -}}
{{- if or (get .Values.ra.config "EXTERNAL_CA") (get .Values.ra.config "ENSIGN_RA_MESH_CONFIG_MAP") }}true{{ end }}
{{- end -}}

{{/* Whether an issuer of cert-manager signs for everybody, as with istio-csr. */}}
{{- define "ensign.oneIssuer" -}}
{{- if or .Values.app.certmanager.issuer.enabled (include "ensign.runtimeConfigMap" .) }}true{{ end }}
{{- end -}}

{{/* Where the RA's serving certificate comes from. */}}
{{- define "ensign.servingFrom" -}}
{{ .Values.ra.servingFrom | default (ternary "issuer" "secret" (eq (include "ensign.oneIssuer" .) "true")) }}
{{- end -}}

{{/* Whether the RA keeps a Certificate for istiod. */}}
{{- define "ensign.istiodCertificate" -}}
{{- $said := toString .Values.app.tls.istiodCertificateEnable }}
{{- if or (has $said (list "true" "dynamic")) (and (eq $said "") (include "ensign.oneIssuer" .)) }}true{{ end }}
{{- end -}}

{{/* Modes of the RA's rights: those that the values call for and those that are asked for, between spaces. */}}
{{- define "ensign.modes" -}}
{{- $modes := concat (list "base") .Values.rbac.modes }}
{{- if not .Values.ra.existingConfigMap }}
{{- $config := .Values.ra.config }}
{{- $informer := eq (toString (get $config "ENSIGN_RA_AUTHN")) "informer" }}
{{- if or $informer .Values.app.server.caTrustedNodeAccounts }}{{ $modes = append $modes "pods" }}{{ end }}
{{- if $informer }}{{ $modes = append $modes "service-accounts" }}{{ end }}
{{- if eq (toString (get $config "ENSIGN_RA_REMOTE_CLUSTERS")) "true" }}{{ $modes = append $modes "remote-clusters" }}{{ end }}
{{- if include "ensign.istioSigners" . }}{{ $modes = append $modes "istio-config" }}{{ end }}
{{- if .Values.rbac.signers }}{{ $modes = concat $modes (list "kubernetes-csr" "cluster-issuers") }}{{ end }}
{{- range (fromYaml .Values.ra.policy).signers }}
{{- if and (kindIs "map" .roots) (hasKey (.roots | default dict) "configMap") }}{{ $modes = append $modes "signer-roots" }}{{ end }}
{{- end }}
{{- if .Values.rbac.issuers }}{{ $modes = concat $modes (list "issuers" "issuer-reference") }}{{ end }}
{{- if include "ensign.oneIssuer" . }}
{{- $modes = append $modes "cert-manager" }}
{{- $runtime := include "ensign.runtimeConfigMap" . }}
{{- $kind := .Values.app.certmanager.issuer.kind }}
{{- if or $runtime (eq $kind "Issuer") }}{{ $modes = append $modes "issuers" }}{{ end }}
{{- if or $runtime (eq $kind "ClusterIssuer") }}{{ $modes = append $modes "cluster-issuers" }}{{ end }}
{{- if $runtime }}{{ $modes = append $modes "runtime-issuer" }}{{ end }}
{{- end }}
{{- if ne (toString (get $config "ENSIGN_RA_ROOT_CONFIGMAPS")) "off" }}{{ $modes = append $modes "root-cert" }}{{ end }}
{{- if get $config "ENSIGN_RA_CLUSTER_TRUST_BUNDLE" }}{{ $modes = append $modes "cluster-trust-bundle" }}{{ end }}
{{- if include "ensign.istiodCertificate" . }}{{ $modes = append $modes "istiod-certificate" }}{{ end }}
{{- if hasPrefix "k8s.io/" (toString (get $config "PILOT_CERT_PROVIDER")) }}{{ $modes = append $modes "istiod-secret" }}{{ end }}
{{- if ne (include "ensign.servingFrom" .) "config" }}{{ $modes = append $modes "serving-secret" }}{{ end }}
{{- end }}
{{- printf " %s " (join " " $modes) }}
{{- end -}}

{{/* Whether somebody else than this release's RA may be the agents' authority: only whoever set it knows its pods. */}}
{{- define "ensign.authorityElsewhere" -}}
{{- if or (not .Values.ra.enabled) .Values.agent.existingConfigMap (get .Values.agent.config "CA_ADDR") }}true{{ end }}
{{- end -}}

{{/* Egress to the cluster's DNS, in a NetworkPolicy: a policy sees the port of its pods, not the Service's. */}}
{{- define "ensign.dnsRule" -}}
{{- $openshift := eq .Values.global.platform "openshift" }}
{{- if $openshift }}  # Those of OpenShift listen on 5353.
{{ end }}  - ports:
{{- range $port := ternary (list 53 5353) (list 53) $openshift }}
    - port: {{ $port }}
      protocol: UDP
    - port: {{ $port }}
      protocol: TCP
{{- end }}
{{- end -}}
