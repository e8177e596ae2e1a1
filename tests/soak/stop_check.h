// Whether a sample ended where it should have, by its tokens.
#pragma once

#include <string>
#include <vector>

#include "tests/soak/client_stream.h"

namespace spotlight::soak {

// What is wrong with the sample of a finished request for `stopping`; empty: nothing. It must end at the first stop
// token, end of sequence or stop string from token min_tokens on, or with max_tokens tokens, and say which; its text
// has no stop string but the matched one, last, with include_stop. Of tokens that are one character each
// (tiny_tokens.h) the text is known and must be that; of others it is judged as it came, where min_tokens is 0.
std::string WrongInStop(const v1::Stopping& stopping, const SampleEnd& sample);

// How the samples of kStops streams ended.
struct StopCounts {
  int by_string = 0, by_token = 0, by_end_of_sequence = 0, by_length = 0;
  int total() const { return by_string + by_token + by_end_of_sequence + by_length; }
};
StopCounts CountStops(const std::vector<StreamEnd>& ends);

// One line for every way to end that none took, of samples enough for each: then the soak did not try it.
std::vector<std::string> CheckStopCounts(const StopCounts& counts);

}  // namespace spotlight::soak
