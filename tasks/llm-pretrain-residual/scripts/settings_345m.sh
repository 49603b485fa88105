# What every role of profile 345m passes on: the training file's own defaults are this profile's.
settings=()
