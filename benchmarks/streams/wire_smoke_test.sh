#!/bin/sh
exec benchmarks/streams/wire_overhead --batch_size=2 --num_tokens=8 --rounds=1 --dtype=fp32
