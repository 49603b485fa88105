"""A line through points: the model."""

import json


# what is fitted
def predict(slope, x):
    return slope * x


# from here on nothing is to be edited
def loss(slope, points):
    return sum((predict(slope, x) - y) ** 2 for x, y in points) / len(points)


def load(path):
    with open(path) as f:
        return json.load(f)
