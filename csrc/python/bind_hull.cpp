#include "arrays.hpp"
#include "clear/hull.hpp"

namespace clear::python {

void bind_hull(py::module_& module) {
    module.def(
        "solve_hulls",
        [](Array<float> points, py::array base, std::string const& storage, Array<Index> owner, Array<Index> members,
           Array<double> eps, bool decide, double relative_tolerance, int threads, Array<std::int8_t> status,
           Array<double> lower, Array<double> upper, Array<double> used_eps, Array<double> weights,
           Array<double> directions, Array<double> start) {
            HullProblems const problems{matrix(points, "points"), stored_rows(base, storage, "base"),
                                        vector(owner, "owner"),   matrix(members, "members"),
                                        vector(eps, "eps"),       matrix(start, "start")};
            Index const s = problems.members.rows, k = problems.members.cols, d = problems.base.cols;
            HullResults const results{output_vector(status),   output_vector(lower),      output_vector(upper),
                                      output_vector(used_eps), output_matrix(weights, s), output_matrix(directions, s)};
            auto fits = [s](auto const& output, Index cols) {
                return output.rows == s && (output.cols == 0 || output.cols == cols);
            };
            auto const n = static_cast<std::size_t>(s);
            require(results.status.size() == n && results.lower.size() == n && results.upper.size() == n &&
                        results.eps.size() == n && fits(results.weights, k) && fits(results.directions, d),
                    "outputs are not those of ", s, " problems of ", k, " vertices in ", d, " dimensions");
            HullOptions const options{decide ? HullMode::decide : HullMode::distance, relative_tolerance};
            py::gil_scoped_release release;
            solve_hulls(problems, options, threads, results);
        },
        py::arg("points").noconvert(), py::arg("base").noconvert(), py::arg("storage"), py::arg("owner").noconvert(),
        py::arg("members").noconvert(), py::arg("eps").noconvert(), py::arg("decide"), py::arg("relative_tolerance"),
        py::arg("threads"), py::arg("status").noconvert(), py::arg("lower").noconvert(), py::arg("upper").noconvert(),
        py::arg("used_eps").noconvert(), py::arg("weights").noconvert(), py::arg("directions").noconvert(),
        py::arg("start").noconvert() = Array<double>(std::vector<py::ssize_t>{0, 0}));
}

}  // namespace clear::python
