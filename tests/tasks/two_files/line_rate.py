"""A line through points: how fast it is fitted."""

FIRST_RATE = 0.05

# helpers of the schedule stand between these two comments
# end of helpers


def rate(step):
    return FIRST_RATE
