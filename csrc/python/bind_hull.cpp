#include "arrays.hpp"
#include "clear/hull.hpp"

namespace clear::python {

void bind_hull(py::module_& module) {
    module.def(
        "solve_hulls",
        [](Array<float> points, py::array base, std::string const& storage, Array<Index> owner, Array<Index> members, Array<double> eps,
           bool decide, double relative_tolerance, bool certificates, int threads, Array<double> start) {
            HullProblems const problems{matrix(points, "points"),   stored_rows(base, storage, "base"), vector(owner, "owner"),
                                        matrix(members, "members"), vector(eps, "eps"),   matrix(start, "start")};
            Index const s = problems.members.rows;
            Index const k = certificates ? problems.members.cols : 0;
            Index const d = certificates ? problems.base.cols : 0;
            Array<std::int8_t> status(s);
            Array<double> lower(s), upper(s), used_eps(s), weights({s, k}), directions({s, d});
            HullResults const results{output_vector(status), output_vector(lower),      output_vector(upper),
                                      output_vector(used_eps), {weights.mutable_data(), s, k, k},
                                      {directions.mutable_data(), s, d, d}};
            HullOptions const options{decide ? HullMode::decide : HullMode::distance, relative_tolerance};
            {
                py::gil_scoped_release release;
                solve_hulls(problems, options, threads, results);
            }
            return py::make_tuple(status, lower, upper, used_eps, weights, directions);
        },
        py::arg("points").noconvert(), py::arg("base").noconvert(), py::arg("storage"), py::arg("owner").noconvert(),
        py::arg("members").noconvert(), py::arg("eps").noconvert(), py::arg("decide"), py::arg("relative_tolerance"),
        py::arg("certificates"), py::arg("threads"), py::arg("start").noconvert() = Array<double>(std::vector<py::ssize_t>{0, 0}));
}

}  // namespace clear::python
