// What the simulated SoC meets: pins of its top level, with models behind them. Which board it is
// was decided when this was compiled.
#pragma once

#ifdef PROCESSING_SYSTEM
#include "ps/processing_system.hpp"
using Outside = ProcessingSystem;
#else
#include "fabric.hpp"
using Outside = Fabric;
#endif
