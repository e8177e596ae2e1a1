#!/bin/sh
# Streams of most of a second: both are there for a while, however late the second one comes.
exec benchmarks/streams/streams --batch_size=2 --num_tokens=4000 --model_us=100
