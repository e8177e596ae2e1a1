package(default_visibility = ["//visibility:public"])

# LibTorch with CUDA: one link line for machines with and without a GPU. Its own RPATH finds the nvidia wheels.
cc_library(
    name = "torch",
    hdrs = glob([
        "site/torch/include/**/*.h",
        "site/torch/include/**/*.hpp",
    ]),
    includes = [
        "site/torch/include",
        "site/torch/include/torch/csrc/api/include",
    ],
    linkopts = [
        "-L%{site}/torch/lib",
        "-Wl,-rpath,%{site}/torch/lib",
        "-Wl,--no-as-needed",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
        "-ltorch_cuda",
        "-lc10_cuda",
        "-Wl,--as-needed",
    ],
    deps = [":cudart"],
)

filegroup(
    name = "nvcc",
    srcs = ["site/nvidia/cu13/bin/nvcc"],
)

filegroup(
    name = "toolkit",
    srcs = glob([
        "site/nvidia/cu13/bin/**",
        "site/nvidia/cu13/nvvm/**",
    ]),
)

cc_library(
    name = "cudart",
    hdrs = glob(["site/nvidia/cu13/include/**"]),
    includes = ["site/nvidia/cu13/include"],
    linkopts = [
        "-L%{site}/nvidia/cu13/lib",
        "-Wl,-rpath,%{site}/nvidia/cu13/lib",
        "-l:libcudart.so.13",
    ],
)
