# What every role of profile 345m passes on: the training file's own defaults are this profile's.
settings=()
device=cuda
scoring=()
lm_eval=(--bfloat16 --tasks arc_easy,hellaswag,piqa,winogrande --hidden piqa,winogrande)
# Parameters and buffers that a model may hold besides the unedited one's, as a share of them, unless
# the script has said it.
: "${max_extra:=0.25}"
# Positions that the audit asks again.
audited=4096
