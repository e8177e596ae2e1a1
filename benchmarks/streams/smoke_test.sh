#!/bin/sh
exec benchmarks/streams/streams --batch_size=2 --num_tokens=8 --model_us=100
