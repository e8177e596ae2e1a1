"""cpu_and_cuda_test: one test file that runs on the CPU, and the same on a GPU."""

def cpu_and_cuda_test(name, cpu_tags = [], **kwargs):
    """NAME_test, and NAME_cuda_test, where TEST_ON_CUDA is defined and which is tagged gpu.

    cpu_tags: further tags of the first."""
    for suffix, copts, tags in [("", [], cpu_tags), ("_cuda", ["-DTEST_ON_CUDA"], ["gpu"])]:
        native.cc_test(
            name = name + suffix + "_test",
            srcs = [name + "_test.cc"],
            copts = copts,
            linkstatic = True,
            tags = tags,
            **kwargs
        )
