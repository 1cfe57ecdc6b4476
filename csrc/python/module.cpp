// The extension module clear._core: registers, nothing else.
#include <string>

#include "arrays.hpp"
#include "clear/isa.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
    py::register_exception<clear::Error>(module, "CoreError", PyExc_RuntimeError);
    module.attr("version") = CLEAR_VERSION;
    module.attr("compiler") = CLEAR_COMPILER;
    module.def("best_isa", [] { return clear::isa_name(clear::best_isa()); });
    module.def("current_isa", [] { return clear::isa_name(clear::current_isa()); });
    clear::python::bind_neighbors(module);
    clear::python::bind_hull(module);
    clear::python::bind_shared_hull(module);
}
