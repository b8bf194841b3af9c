{{/* Prefix of every object's name; short enough for the suffixes. */}}
{{- define "backdrop.fullname" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- .Values.fullnameOverride | default $name | trunc 48 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select every pod of the release, and no pod of the pipeline. */}}
{{- define "backdrop.releaseSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels that select the pods of a component. Takes a dict: root, component. */}}
{{- define "backdrop.selector" -}}
{{ include "backdrop.releaseSelector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. Takes a dict: root, component. */}}
{{- define "backdrop.labels" -}}
{{ include "backdrop.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: backdrop
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of every pod. Takes a dict: root, component. */}}
{{- define "backdrop.podLabels" -}}
{{ include "backdrop.labels" . }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A hook that is deleted when it succeeds, and whose log `helm` prints. Takes a dict: on, weight. */}}
{{- define "backdrop.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | default 0 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-succeeded,hook-failed
{{- end }}

{{/* An image's reference, by digest if there is one. Takes a dict: image, tag (the default tag). */}}
{{- define "backdrop.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end -}}
{{- end }}

{{/* The settings of the pipeline's tasks, in the ConfigMap `backdrop`. */}}
{{- define "backdrop.settings" -}}
MLFLOW_TRACKING_URI: {{ include "backdrop.trackingUri" . | quote }}
MLFLOW_EXPERIMENT_NAME: {{ .Values.tracking.experiment | quote }}
{{- with .Values.s3.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- with .Values.s3.region }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- end }}

{{/* MLflow's address: the chart's own server, or an existing one. */}}
{{- define "backdrop.trackingUri" -}}
{{- if .Values.mlflow.enabled -}}
http://{{ include "backdrop.fullname" . }}-mlflow.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:{{ .Values.mlflow.port }}
{{- else -}}
{{ .Values.tracking.uri }}
{{- end -}}
{{- end }}

{{/* Every name by which a pod or a forwarded port may call MLflow. Exact names, because a wildcard lets others in. */}}
{{- define "backdrop.allowedHosts" -}}
{{- $short := printf "%s-mlflow" (include "backdrop.fullname" .) -}}
{{- $long := printf "%s.%s" $short .Release.Namespace -}}
{{- $full := printf "%s.svc.%s" $long .Values.clusterDomain -}}
{{- $hosts := list -}}
{{- range list $short $long (printf "%s.svc" $long) $full "localhost" "127.0.0.1" -}}
{{- $hosts = concat $hosts (list . (printf "%s:%v" . $.Values.mlflow.port)) -}}
{{- end -}}
{{- concat $hosts .Values.mlflow.allowedHosts | join "," -}}
{{- end }}

{{/* The claim of MLflow's volume: our own or an existing one; empty if neither database nor artifacts need it. */}}
{{- define "backdrop.mlflowClaim" -}}
{{- if or (eq .Values.mlflow.database "sqlite") (not .Values.mlflow.artifacts) -}}
{{ .Values.mlflow.volume.existingClaim | default (printf "%s-mlflow" (include "backdrop.fullname" .)) }}
{{- end -}}
{{- end }}

{{/* gpu.nodePool as the pipeline's run-time parameters. The only place that reads it. */}}
{{- define "backdrop.gpuNodePool" -}}
{{- with .Values.gpu.nodePool -}}
accelerator: {{ .accelerator | quote }}
gpus: {{ .gpus | quote }}
cpu: {{ .cpu | quote }}
memory: {{ .memory | quote }}
node_selector: {{ .nodeSelector | toJson }}
tolerations: {{ .tolerations | toJson }}
{{- end }}
{{- end }}

{{/* The files in /etc/backdrop: the pipeline's run-time parameters, and pipeline.files. */}}
{{- define "backdrop.files" -}}
params.yaml: |
  {{- with .Values.pipeline }}
  data: {{ .data | quote }}
  {{- with .model }}
  name: {{ . | quote }}
  {{- end }}
  work: {{ .work | quote }}
  objects: {{ int .objects }}
  promotion: {{ .promotion }}
  {{- end }}
  ray_workers: {{ int .Values.tuning.workers }}
  {{- include "backdrop.gpuNodePool" . | nindent 2 }}
{{- with .Values.pipeline.files }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted", for a pod; fsGroup lets the user write to volumes. */}}
{{- define "backdrop.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Pod Security "restricted", for a container. */}}
{{- define "backdrop.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A pod's nodes and pull secrets. Service links would set variables such as MLFLOW_PORT, which MLflow reads. */}}
{{- define "backdrop.place" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
A pod that runs one command in Backdrop's image, with a token for Kubeflow Pipelines. Takes a dict: root, account,
command (a list); files (optional), the ConfigMap to mount at /etc/backdrop; tracking (optional), true for the environment
of the pipeline's tasks; kubernetes (optional), true for a token of the Kubernetes API.
*/}}
{{- define "backdrop.jobPod" -}}
{{- $image := include "backdrop.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) -}}
restartPolicy: Never
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .kubernetes | default false }}
{{ include "backdrop.place" .root }}
securityContext: {{- include "backdrop.podSecurity" . | nindent 2 }}
containers:
  - name: backdrop
    image: {{ $image | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: {{ .command | toJson }}
    env:
      - {name: HOME, value: /tmp}
      # The tasks' image, for Jobs that compile the pipeline.
      - {name: BACKDROP_IMAGE, value: {{ $image | quote }}}
      - {name: KF_PIPELINES_ENDPOINT, value: {{ .root.Values.kfp.endpoint | quote }}}
      - {name: KF_PIPELINES_SA_TOKEN_PATH, value: /var/run/secrets/kubeflow/pipelines/token}
      {{- if .tracking }}
      {{- range $name, $value := include "backdrop.settings" .root | fromYaml }}
      - {name: {{ $name }}, value: {{ $value | quote }}}
      {{- end }}
      {{- range list "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_TOKEN" "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN" }}
      - name: {{ . }}
        valueFrom: {secretKeyRef: {name: backdrop, key: {{ . }}, optional: true}}
      {{- end }}
      {{- end }}
    resources: {{- toYaml .root.Values.jobs.resources | nindent 6 }}
    securityContext: {{- include "backdrop.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: kfp-token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
      {{- if .files }}
      - {name: files, mountPath: /etc/backdrop, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  - name: kfp-token
    projected:
      sources:
        - serviceAccountToken: {path: token, expirationSeconds: 7200, audience: pipelines.kubeflow.org}
  {{- with .files }}
  - name: files
    configMap: {name: {{ . }}}
  {{- end }}
{{- end }}

{{/* Refuses values that can't work, and says what to do. */}}
{{- define "backdrop.check" -}}
{{- $needsKfp := or .Values.schedule.enabled .Values.preflight.enabled -}}
{{- if and $needsKfp (not .Values.pipeline.data) -}}
{{- fail "pipeline.data is empty, so there is nothing to train on. Set it to the dataset's address: --set pipeline.data=s3://BUCKET/FOLDER" -}}
{{- end -}}
{{- if and $needsKfp (not .Values.kfp.endpoint) -}}
{{- fail "kfp.endpoint is empty, but schedule and preflight call Kubeflow Pipelines. Set it: --set kfp.endpoint=http://ml-pipeline.kubeflow.svc.cluster.local:8888" -}}
{{- end -}}
{{- if and .Values.tuning.ray (not (hasPrefix "s3://" .Values.pipeline.work)) -}}
{{- fail "tuning.ray is true, but not all pods of a Ray cluster can reach pipeline.work. Set it to an S3 address: --set pipeline.work=s3://BUCKET/FOLDER" -}}
{{- end -}}
{{- if and .Values.tuning.ray (not .Values.schedule.serviceAccount) -}}
{{- fail "tuning.ray is true, but schedule.serviceAccount is empty. Set it to the account of the tasks' pods, such as default-editor, so that they may create RayJobs" -}}
{{- end -}}
{{- if ne (len (splitList " " .Values.schedule.cron)) 6 -}}
{{- fail (printf "schedule.cron is %q, but it needs six fields. Start with the seconds: 0 0 2 * * 0 is Sundays at 2:00" .Values.schedule.cron) -}}
{{- end -}}
{{- if and .Values.mlflow.enabled .Values.tracking.uri -}}
{{- fail "tracking.uri names a server, but mlflow.enabled would start another. Set mlflow.enabled=false, or leave tracking.uri empty" -}}
{{- end -}}
{{- if not (or .Values.mlflow.enabled .Values.tracking.uri) -}}
{{- fail "There is no tracking server. Set mlflow.enabled=true, or set tracking.uri to the address of yours: --set tracking.uri=https://mlflow.example" -}}
{{- end -}}
{{- if and .Values.mlflow.enabled (eq .Values.mlflow.database "external") (not .Values.mlflow.existingSecret) -}}
{{- fail "mlflow.database is external, but mlflow.existingSecret is empty. Create a Secret with the key MLFLOW_BACKEND_STORE_URI, such as postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE, and set mlflow.existingSecret to its name" -}}
{{- end -}}
{{- end }}
