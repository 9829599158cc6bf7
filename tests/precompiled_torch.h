// Precompiled for the tests with LibTorch.
#pragma once

#include <ATen/ATen.h>

#include "tests/precompiled.h"
