// A program's first step: how its threads wait for each other.
#pragma once

namespace spotlight::command_line {

// libgomp's threads wait for each other by spinning for milliseconds. On a machine with other work, a thread that spins
// keeps the one it waits for off the processor: a token then takes 20 to 80 times as long, a training step 5 to 15
// times. A bound of some 10 us costs 5% on a quiet machine, and two to three times the time on a busy one (2 threads
// beside 2 busy processes). libgomp reads it when it is loaded, which is before main, so it takes a second start: this
// function starts the program anew, once, unless the environment says how to wait. Where the program cannot be
// executed, or was started by calling the dynamic loader, it goes on as it is. `argv` is main's.
void BoundSpinning(char** argv);

}  // namespace spotlight::command_line
