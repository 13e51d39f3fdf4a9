"""Prints the mean of its arguments."""

import sys

import numpy

print(numpy.mean([float(word) for word in sys.argv[1:]]))
