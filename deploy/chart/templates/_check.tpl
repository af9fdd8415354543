{{/* Refuses values that fit the schema and not each other, or that have no meaning here: all at once, each with what to do. */}}
{{- define "ensign.check" -}}
{{- $wrong := list }}
{{- $app := .Values.app }}
{{- $ra := .Values.ra }}
{{- $agent := .Values.agent }}
{{- if .Values.image.registry }}
{{- $wrong = append $wrong "image.registry: istio-csr puts it before a name that has a registry already; use imageRegistry" }}
{{- end }}
{{- if ne $app.metrics.service.type "ClusterIP" }}
{{- $wrong = append $wrong "app.metrics.service.type: the Service for scrapers is headless, which no later value could change; for another one use extraObjects" }}
{{- end }}
{{- if ne (len $app.istio.revisions) (len (uniq $app.istio.revisions)) }}
{{- $wrong = append $wrong (printf "app.istio.revisions: %s names a revision twice; name each once" (join ", " $app.istio.revisions)) }}
{{- end }}
{{- if and (not $ra.enabled) (not $agent.enabled) }}
{{- $wrong = append $wrong "ra.enabled and agent.enabled: both are false, which installs nothing; enable one" }}
{{- end }}
{{- if $ra.enabled }}
{{- if and (has "issuer-reference" .Values.rbac.modes) (not .Values.rbac.issuers) }}
{{- $wrong = append $wrong "rbac.modes: issuer-reference without a name would be for every issuer of app.certmanager.namespace; name them in rbac.issuers" }}
{{- end }}
{{- if $ra.existingConfigMap }}
{{- if or $ra.config $ra.policy $ra.roots }}
{{- $wrong = append $wrong "ra.existingConfigMap: it holds all settings of the RA; move ra.config there, and ra.policy and ra.roots to ConfigMaps of your own (docs/install.md)" }}
{{- end }}
{{- else }}
{{- $elsewhere := "" }}
{{- if or $ra.policy (get $ra.config "ENSIGN_RA_POLICY_FILE") }}{{ $elsewhere = "the policy file" }}{{ end }}
{{- if include "ensign.istioSigners" . }}{{ $elsewhere = "Istio's own configuration" }}{{ end }}
{{- if and $elsewhere (include "ensign.oneIssuer" .) }}
{{- $wrong = append $wrong (printf "app.certmanager.issuer.enabled: %s says who signs; set it to false (and app.runtimeConfiguration to nothing)" $elsewhere) }}
{{- end }}
{{- if not (or $elsewhere (include "ensign.oneIssuer" .)) }}
{{- $wrong = append $wrong "app.certmanager.issuer.enabled: nobody signs without it; name an issuer, or set app.runtimeConfiguration.name, ra.policy or ra.config.EXTERNAL_CA" }}
{{- end }}
{{- if and (eq (include "ensign.servingFrom" .) "issuer") (not (include "ensign.oneIssuer" .)) }}
{{- $wrong = append $wrong "ra.servingFrom: no issuer signs for everybody; use secret, or config with ENSIGN_RA_SERVING_FROM in ra.config" }}
{{- end }}
{{- $own := include "ensign.raOwnSettings" . | fromJson }}
{{- range $name, $_ := $ra.config }}
{{- if hasKey $own $name }}
{{- $wrong = append $wrong (printf "ra.config.%s: another value of the chart sets it, to %s; change that one (docs/chart.md)" $name (get $own $name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if $agent.enabled }}
{{- if and $agent.existingConfigMap $agent.config }}
{{- $wrong = append $wrong "agent.existingConfigMap: it holds all settings of the agent; move agent.config there" }}
{{- end }}
{{- if not (or $ra.enabled $agent.existingConfigMap (get $agent.config "CA_ADDR")) }}
{{- $wrong = append $wrong "agent.config.CA_ADDR: with ra.enabled=false it must name the authority, such as istiod.istio-system.svc:15012" }}
{{- end }}
{{- range $name := list "TRUST_DOMAIN" "ISTIO_META_CLUSTER_ID" }}
{{- if hasKey $agent.config $name }}
{{- $wrong = append $wrong (printf "agent.config.%s: RA and agent must agree on it; use %s" $name (ternary "app.tls.trustDomain" "app.server.clusterID" (eq $name "TRUST_DOMAIN"))) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $wrong }}
{{- fail (printf "\n- %s" (join "\n- " $wrong)) }}
{{- end }}
{{- end -}}
