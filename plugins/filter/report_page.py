# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the HTML page of a report shows. A thin layer over _control/report.py."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report_page
short_description: A report as texts and percentages, for an HTML page
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Turns a report into what the template of the role P(kubeadm.etcd.report#role) lays out. Nothing is escaped here.
options:
  _input:
    description: The report, as P(kubeadm.etcd.report#filter) returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the headline
  ansible.builtin.debug:
    msg: "{{ (__report | kubeadm.etcd.report_page).summary }}"
"""

RETURN = r"""
_value:
  description: A C(summary), the worst C(verdict), when the report was made (C(at)), and C(clusters) with all that is shown of them.
  type: dict
"""

from typing import Any


def report_page(report: dict[str, Any]) -> dict[str, Any]:
    """See DOCUMENTATION."""
    # When it is called: see cluster.py.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import page

    return page(report)


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"report_page": report_page}
