# What every role of profile 345m passes on: the training file's own defaults are this profile's.
settings=()
# Parameters and buffers that a model may hold besides the unedited one's, as a share of them.
max_extra=0.25
